
import headrace as hr
import nb_rows_plain as rows
@hr.task
def row(x):
    return rows.Row(rows.FACTOR * x)
