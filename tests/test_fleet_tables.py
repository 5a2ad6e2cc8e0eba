"""Tables of many models."""

from pathlib import Path

import pytest

from padim_jax.fleet.tables import Job, Route, read_jobs, read_routes


def test_jobs_and_routes(tmp_path: Path) -> None:
    jobs, routes = tmp_path / "jobs.csv", tmp_path / "routes.csv"
    jobs.write_text('\ufeffgood,model,roi,calibration\r\n"a, b",x/y,,held\r\n\r\n/abs, x/z,m.png,\r\n', "utf-8")
    assert read_jobs(jobs) == [
        Job("x/y", tmp_path / "a, b", calibration=tmp_path / "held"),
        Job("x/z", Path("/abs"), roi=tmp_path / "m.png"),
    ]
    routes.write_text("model,path\nb,1.png\na,2.png\nb,1.png\n")
    assert [(route.name, route.path.name) for route in read_routes(routes)] == [
        ("b", "1.png"),
        ("a", "2.png"),
        ("b", "1.png"),
    ]
    assert read_routes(routes)[0] == Route("b", tmp_path / "1.png")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "its first line is '', wanted the columns model,good"),
        ("model,good\n", "has no lines after the first"),
        ("model,folder\na,b\n", "wanted the columns model,good and, if you like, calibration,roi"),
        ("model,good,good\na,b,c\n", "wanted the columns"),
        ("model,good\na\n", "line 2: 'a', wanted 2 values"),
        ("model,good\na,\n", "line 2: 'a,', wanted 2 values, model and good not empty"),
        ("model,good\na,b\n\na,c\n", "line 4: model 'a' is there twice"),
        ("model,good\na/b,b\na,c\n", "model 'a/b' would lie inside the folder of model 'a'"),
        ("model,good\n../a,b\n", "line 2: model '../a', wanted a name"),
        ("model,good\n/a,b\n", "wanted a name"),
        ("model,good\na//b,b\n", "wanted a name"),
        ("model,good\nmodels.csv,b\n", "would lie where the list of models does"),
        ("model,good\n.a,b\n", "begin with no dot"),
        ("model,good\na\\b,b\n", "wanted a name"),
        ('model,good\n"a,b\n', "not a CSV table"),
    ],
)
def test_wrong_tables_are_named(tmp_path: Path, text: str, said: str) -> None:
    table = tmp_path / "table.csv"
    table.write_text(text)
    with pytest.raises(ValueError, match=r"table\.csv") as error:
        read_jobs(table)
    assert said in str(error.value)


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    table = tmp_path / "table.csv"
    table.write_bytes(b"model,good\n\xff\xfe,b\n")
    with pytest.raises(ValueError, match="not a CSV table"):
        read_jobs(table)
