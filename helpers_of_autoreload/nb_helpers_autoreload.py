
import headrace as hr
import nb_rows_autoreload as rows
@hr.task
def row(x):
    return rows.Row(rows.FACTOR * x)
