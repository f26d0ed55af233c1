"""Reports: a run or a flow as people look at it. Pure functions, and what shows them."""
