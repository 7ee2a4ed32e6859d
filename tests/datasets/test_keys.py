import re

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from jitlab.datasets.keys import key_of_name, told_apart
from jitlab.datasets.shards import LONGEST_KEY, split_name

names = st.text(min_size=1, max_size=120)
few_keys = st.lists(st.from_regex(r"[ab](-[1-3])?", fullmatch=True) | st.just("a" * LONGEST_KEY), max_size=40)


@given(names, names)
def test_a_key_is_what_webdataset_takes_for_one(class_name, name):
    key = key_of_name(class_name, name)
    assert re.fullmatch(r"[A-Za-z0-9_-]{1,80}", key)
    assert split_name(f"{key}.jpeg") == (key, "jpeg")


def test_the_class_stands_in_front_once():
    assert key_of_name("n01440764", "n01440764_10026.JPEG") == "n01440764_10026"
    assert key_of_name("cat", "images/7.2.png") == "cat_images_7_2"
    assert key_of_name("", "00017.jpg") == "00017"


@given(few_keys)
def test_equal_keys_are_told_apart_and_others_left_alone(keys):
    apart = told_apart(np.array(keys, f"S{LONGEST_KEY}")).tolist()
    assert len(set(apart)) == len(keys)
    assert all(len(key) <= LONGEST_KEY for key in apart)
    for place, key in enumerate(keys):
        if key not in keys[:place]:
            assert apart[place] == key.encode()


def test_the_example_of_the_documentation():
    assert told_apart(np.array([b"a", b"a", b"b", b"a"])).tolist() == [b"a", b"a-2", b"b", b"a-3"]
