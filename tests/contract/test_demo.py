"""`egem demo` as a user runs it, with everything small: the whole path works and the page holds what it found."""

import json

import pytest

from egem.cli import main


@pytest.mark.slow
def test_the_whole_story(tmp_path, capsys):
    out = tmp_path / "demo"
    words = "--minutes 1.2 --views 24 --questions 3 --test-views 6 --skills nearer_object count_all"
    main(["demo", "--out", str(out), *words.split()])
    result = json.loads((out / "demo.json").read_text())
    printed = capsys.readouterr().out
    assert str(out / "report.html") in printed
    assert f"{result['depth_abs_rel']:.3f}" in printed
    assert result["steps"] >= 3
    for name in ("depth", "start", "mean_map"):
        assert 0 < result[f"{name}_delta1"] <= 1
        assert 0 < result[f"{name}_abs_rel"] < 5
    assert result["last_language_loss"] > 0
    page = (out / "report.html").read_text()
    assert "nearer_object" in page
    assert "data:image/png;base64" in page
    assert (out / "summary.png").stat().st_size > 10_000
    answers = [
        json.loads(line) for line in (out / "eval" / "tabletop" / "answers.jsonl").read_text().splitlines()
    ]
    assert {a["skill"] for a in answers if "skill" in a} == {"nearer_object", "count_all"}
    with pytest.raises(SystemExit) as stopped:
        main(["demo", "--out", str(out)])
    assert stopped.value.code == 2
    assert "exists already" in capsys.readouterr().err
