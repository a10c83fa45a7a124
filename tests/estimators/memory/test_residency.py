"""Reuse distances, worked out by hand."""

from shmoo.estimators.memory.residency import Touch, code_distances, reuse_distances


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
    weight, written = reuse_distances([a, b], walked=True)[0]
    assert reuse_distances([a, b], walked=True)[1][0] == 50 + 30
    assert reuse_distances([a, b])[1][0] == 60
    assert weight == 120  # the footprint: 160 bytes were touched since
    assert written == 30 + 50  # where b read it
    assert reuse_distances([a], walked=True) == [[100, 100]]


def test_a_loop_overwrites_what_nothing_reads_later():
    """b puts its result where a's was: 40 bytes, not 80, lie between what it reads and the next kernel's use."""
    chain = [[read(0, 40, persistent=True), write(1, 40)], [read(1, 40), write(2, 40)], [read(2, 40), write(3, 40)]]
    apart = reuse_distances(chain, walked=True)
    together = reuse_distances(chain, (False, True, True), walked=True)
    assert [row[0] for row in apart[1:]] == [80, 80]
    assert [row[0] for row in together[1:]] == [40 + 20, 40]
    assert together[1][0] == together[1][1]  # read and written in one place


def test_what_is_read_again_is_not_overwritten():
    """a's result is read twice: the first reader needs memory of its own."""
    chain = [[read(0, 40, persistent=True), write(1, 40)], [read(1, 40), write(2, 40)], [read(1, 40), read(2, 40), write(3, 40)]]
    assert reuse_distances(chain, (False, True, False), walked=True) == reuse_distances(chain, walked=True)
