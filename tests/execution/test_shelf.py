from headrace.execution.shelf import LARGEST, ROOM, Shelf

SIZE = LARGEST


def shelf_of(*keys):
    shelf = Shelf(size_of=lambda value: value)
    for key in keys:
        shelf.put(key, {0: {0: SIZE}})
    return shelf


def test_the_oldest_goes_when_there_is_no_room():
    room = ROOM // SIZE
    shelf = shelf_of(*(("run", batch) for batch in range(room + 2)))
    assert [batch for batch in range(room + 2) if shelf.get(("run", batch)) is None] == [0, 1]


def test_a_batch_that_is_put_twice_takes_its_room_once():
    room = ROOM // SIZE
    shelf = shelf_of(*[("run", 0)] * (2 * room), *(("run", batch) for batch in range(1, room)))
    assert all(shelf.get(("run", batch)) for batch in range(room))


def test_a_run_is_cleared_with_all_its_room():
    room = ROOM // SIZE
    shelf = shelf_of(*(("gone", batch) for batch in range(room)))
    shelf.clear("gone")
    assert shelf.get(("gone", 0)) is None
    for batch in range(room):
        shelf.put(("run", batch), {0: {0: SIZE}})
    assert all(shelf.get(("run", batch)) for batch in range(room))
