"""The check of `make lint` for the names of tests."""

from tests.names import too_long


def test_a_long_name_is_found_in_functions_and_classes():
    limit = f"test_{'a' * 55}"
    source = f"""
def {limit}(): ...
def {limit}b(): ...
def helper_{limit}(): ...
class Tests:
    async def {limit}c(self): ...
"""
    assert too_long(source) == [f"{limit}b", f"{limit}c"]
