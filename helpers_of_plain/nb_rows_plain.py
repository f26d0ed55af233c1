
import dataclasses
FACTOR = 5
@dataclasses.dataclass
class Row:
    x: int
