from pathlib import Path

import numpy as np

from tritone.vocabulary import Vocabulary


def test_emittable_tokens_come_first_each_part_in_the_order_of_its_ids() -> None:
    vocabulary = Vocabulary(8, [range(6, 7), range(2, 4)])

    assert vocabulary.id_of_row.tolist() == [2, 3, 6, 0, 1, 4, 5, 7]
    assert vocabulary.num_emittable == 3


def test_rows_lead_back_to_their_ids() -> None:
    vocabulary = Vocabulary(100, [range(40, 60), range(7, 9)])

    np.testing.assert_array_equal(vocabulary.id_of_row[vocabulary.row_of_id], np.arange(100))


def test_a_saved_vocabulary_is_read_back(tmp_path: Path) -> None:
    vocabulary = Vocabulary(100, [range(40, 60), range(7, 9)])
    vocabulary.save(tmp_path / "vocabulary.json")

    loaded = Vocabulary.load(tmp_path / "vocabulary.json")

    assert loaded.num_emittable == vocabulary.num_emittable
    np.testing.assert_array_equal(loaded.row_of_id, vocabulary.row_of_id)
