use o
