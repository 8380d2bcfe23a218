from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import openvino as ov
import pytest
from openvino import opset13

from tritone.openvino_engine import OpenVinoEngine, cpu_has_bf16


@pytest.fixture(scope="module")
def square_sum(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A graph that takes `values` [b, n] and gives `squares` [b, n] and their `total` [b]."""
    values = opset13.parameter([-1, -1], np.float32, name="values")
    values.output(0).set_names({"values"})
    squares = opset13.multiply(values, values)
    squares.output(0).set_names({"squares"})
    total = opset13.reduce_sum(squares, np.array([1]))
    total.output(0).set_names({"total"})
    path = tmp_path_factory.mktemp("graph") / "square_sum.xml"
    ov.save_model(ov.Model([squares, total], [values]), path, compress_to_fp16=False)
    return path


def test_outputs_come_by_name_at_any_shape(square_sum: Path) -> None:
    engine = OpenVinoEngine(square_sum, num_threads=1)
    for shape in ((1, 1), (3, 5), (2, 100)):
        values = np.random.default_rng(0).standard_normal(shape, dtype=np.float32)
        results = engine.run({"values": values})
        np.testing.assert_allclose(results["squares"], values**2, rtol=1e-6)
        np.testing.assert_allclose(results["total"], (values**2).sum(axis=1), rtol=1e-5)


def test_results_are_not_overwritten_by_the_next_call(square_sum: Path) -> None:
    engine = OpenVinoEngine(square_sum)
    first = engine.run({"values": np.full((1, 4), 2, np.float32)})["squares"]
    engine.run({"values": np.full((1, 4), 3, np.float32)})
    np.testing.assert_array_equal(first, np.full((1, 4), 4))


def test_a_view_into_a_larger_array_is_read_right(square_sum: Path) -> None:
    values = np.arange(24, dtype=np.float32).reshape(4, 6)[::2, ::3]
    np.testing.assert_array_equal(OpenVinoEngine(square_sum).run({"values": values})["squares"], values**2)


def test_threads_get_their_own_results(square_sum: Path) -> None:
    engine = OpenVinoEngine(square_sum)

    def run(number: int) -> bool:
        squares = engine.run({"values": np.full((1, 1000 + number), number, np.float32)})["squares"]
        return squares.shape == (1, 1000 + number) and bool((squares == number**2).all())

    with ThreadPoolExecutor(8) as executor:
        assert all(executor.map(run, range(200)))


def test_a_missing_graph_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"vocoder.xml is missing"):
        OpenVinoEngine(tmp_path / "vocoder.xml")


@pytest.mark.parametrize(
    ("cpu_info", "expected"),
    [
        ("processor : 0\nflags : fpu avx512f avx512_bf16 amx_tile\n", True),
        ("processor : 0\nflags : fpu amx_bf16\n", True),
        ("processor : 0\nflags : fpu avx2 avx512f\n", False),
        ("processor : 0\nFeatures : fp asimd bf16\n", False),
    ],
)
def test_bf16_is_found_among_the_cpus_flags(cpu_info: str, expected: bool, tmp_path: Path) -> None:
    path = tmp_path / "cpuinfo"
    path.write_text(cpu_info)
    assert cpu_has_bf16(path) is expected
