"""Reuse distances, worked out by hand."""

from shmoo.estimators.memory.residency import Touch, code_distances, reuse_distances, written_in_place


def read(storage: int, nbytes: float, persistent: bool = False) -> Touch:
    return Touch(storage, nbytes, persistent)


def write(storage: int, nbytes: float) -> Touch:
    return Touch(storage, nbytes, write=True, size=nbytes)


def test_a_lone_kernel_repeated_finds_everything_at_its_own_footprint():
    """100 in, 40 out: each was last touched 140 bytes ago."""
    assert reuse_distances([[read(0, 100, persistent=True), write(1, 40)]]) == [[140, 140]]


def test_an_intermediate_is_nearer_than_the_weights():
    """b reads what a just wrote; each weight was last touched one whole repetition ago."""
    a = [read(0, 1000, persistent=True), write(1, 10)]
    b = [read(1, 10), read(2, 3000, persistent=True), write(3, 20)]
    (weight_a, _), (intermediate, weight_b, _) = reuse_distances([a, b])
    assert intermediate == 10 + 3000 + 20  # nothing in between, and b's own operands
    footprint = 1000 + 10 + 3000 + 20
    assert weight_a == footprint
    assert weight_b == footprint


def test_a_freed_block_is_given_to_the_next_output_of_its_size():
    """The third output lands on the first one's memory, which is nearer than memory never touched in this repetition."""
    chain = [[read(0, 50, persistent=True), write(1, 50)], [read(1, 50), write(2, 50)], [read(2, 50), write(3, 50)]]
    distances = reuse_distances(chain)
    # Kernel 3 writes where kernel 2 last read: its own 100 bytes in between.
    assert distances[2] == [100, 100]


def test_a_distance_never_exceeds_the_footprint():
    """A small tensor that is read again and again does not push the others away."""
    hot = read(0, 10, persistent=True)
    kernels = [[read(1, 500, persistent=True), write(2, 5)]] + [[hot, write(3 + i, 5)] for i in range(50)]
    footprint = 10 + 500 + 5 * 51
    assert max(max(row) for row in reuse_distances(kernels)) <= footprint


def test_code_is_as_far_as_the_last_run_of_the_same_call():
    """Two kernels in turn see each other's bytes; a kernel that follows itself sees its own only."""
    a, b = [read(0, 100, persistent=True)], [read(1, 30, persistent=True)]
    assert code_distances(["a", "b"], [a, b]) == [130, 130]
    assert code_distances(["a", "a"], [a, a]) == [100, 100]


def test_operands_that_are_walked_in_order_are_met_halfway():
    """The first byte that b reads was written a whole kernel ago, the last one before all that b has touched: 100 bytes of a and
    60 of b, half each. A repetition later the same holds."""
    a, b = [read(0, 60, persistent=True), write(1, 40)], [read(1, 40), write(2, 20)]
    weight, written = reuse_distances([a, b], in_order=True)[0]
    assert reuse_distances([a, b], in_order=True)[1][0] == 50 + 30
    assert reuse_distances([a, b])[1][0] == 60
    assert weight == 120  # the footprint: 160 bytes were touched since
    assert written == 30 + 50  # where b read it
    assert reuse_distances([a], in_order=True) == [[100, 100]]


def test_a_loop_writes_over_an_operand_that_nobody_reads_later():
    """The second kernel writes over what the first one wrote, and so does the third; a library's kernel, an operand of another
    size, of the caller, or one that is read again keep their own memory."""
    chain = [[read(0, 50, persistent=True), write(1, 50)], [read(1, 50), write(2, 50)], [read(2, 50), write(3, 50)]]
    loops = [True, True, True]
    assert [[touch.storage for touch in touches] for touches in written_in_place(chain, loops)] == [[0, 1], [1, 1], [1, 1]]
    assert written_in_place(chain, [True, False, False]) == chain
    smaller = [chain[0], [read(1, 50), write(2, 20)]]
    assert written_in_place(smaller, [True, True]) == smaller
    again = [chain[0], chain[1], [read(1, 50), read(2, 50), write(3, 50)]]
    assert [touch.storage for touch in written_in_place(again, loops)[1]] == [1, 2]
