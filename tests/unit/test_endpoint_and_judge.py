"""Servers: a model to be measured, and a judge, both behind a stub that speaks the OpenAI chat interface."""

import contextlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

import public_sets as sets
from egem.cli.evaluate import EvaluateOptions, _model, _run_options
from egem.core.errors import ConfigError, ProtocolError, RecordError
from egem.evaluation.answers_file import AnswersFile
from egem.evaluation.benchmarks import Benchmark, BenchmarkOptions, open_benchmark
from egem.evaluation.chat import ChatServer
from egem.evaluation.endpoint import Endpoint, message_parts
from egem.evaluation.judge import Judge, judge_prompt, parse_mark
from egem.evaluation.runner import RunOptions, run
from egem.recipes.annotators import NamerConfig
from real_data import ROOT, needs_real_data
from record_sets import group, write_records


@contextlib.contextmanager
def stub(reply):
    """A server whose answer is `reply(request, number)`: a text, or (status, text)."""
    seen = []
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            request["key"] = self.headers["Authorization"]
            with lock:
                seen.append(request)
                number = len(seen)
            found = reply(request, number)
            status, text = found if isinstance(found, tuple) else (200, found)
            body = text if status != 200 else json.dumps({"choices": [{"message": {"content": text}}]})
            self.send_response(status)
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1", seen
    finally:
        server.shutdown()
        server.server_close()


def chat(url, **settings):
    return ChatServer(**{"url": url, "model": "m", "pause": 0.01, "retries": 2, **settings})


def text_of(request):
    content = request["messages"][0]["content"]
    if isinstance(content, str):
        return content
    return "".join(part["text"] for part in content if part["type"] == "text")


def test_a_server_answers_a_benchmark_and_is_asked_nothing_twice(tmp_path):
    folder = write_records(tmp_path / "r", 3)
    benchmark = Benchmark.from_folder("three", folder)
    with stub(lambda request, number: f" {len(text_of(request))} ") as (url, seen):
        options = RunOptions(batch_size=4, depth=None)
        scores = run(benchmark, Endpoint(chat(url)), tmp_path / "out", options)
        assert scores.overall.score.n == 12
        assert scores.checkpoint == f"m at {url}"
        assert len(seen) == 12
        assert run(benchmark, Endpoint(chat(url)), tmp_path / "out", options) == scores
        assert len(seen) == 12
    assert {request["temperature"] for request in seen} == {0.0}
    assert {request["max_tokens"] for request in seen} == {64}
    kinds = [part["type"] for part in seen[0]["messages"][0]["content"]]
    assert kinds == ["image_url", "text"]
    assert seen[0]["messages"][0]["content"][0]["image_url"]["url"].startswith("data:image/png;base64,")


def test_passing_failures_are_retried_and_others_are_told():
    with stub(lambda request, number: (503, "busy") if number < 3 else "fine") as (url, seen):
        assert chat(url).complete("hello", max_tokens=5) == "fine"
        assert len(seen) == 3
    with stub(lambda request, number: (404, "no such model m")) as (url, seen):
        with pytest.raises(ProtocolError, match=r"HTTP 404 .*no such model m.*answers so far are kept"):
            chat(url).complete("hello", max_tokens=5)
        assert len(seen) == 1
    with pytest.raises(ProtocolError, match="refused"):
        chat("http://127.0.0.1:9/v1", retries=0).complete("hello", max_tokens=5)


def test_no_server_is_shown_the_key_of_another(monkeypatch, tmp_path):
    for name in ("OPENAI_API_KEY", "EGEM_MODEL_KEY", "EGEM_JUDGE_KEY", "EGEM_NAMER_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OPENAI_API_KEY", "of-openai")
    monkeypatch.setenv("EGEM_JUDGE_KEY", "of-the-judge")
    with stub(lambda request, number: '{"object": "mug"}') as (url, seen):
        options = EvaluateOptions(model=url, model_name="m", judge_url=url)
        namer = NamerConfig(namer="endpoint", url=url, model="m").make(device="cpu", sees=False, out=tmp_path)

        def keys():
            _model(options, 0).server.complete("hello", max_tokens=5)
            _run_options(options).judge.server.complete("hello", max_tokens=5)
            namer.chat.complete("hello", max_tokens=5)
            return [request["key"] for request in seen[-3:]]

        assert keys() == [None, "Bearer of-the-judge", None]
        monkeypatch.setenv("EGEM_MODEL_KEY", "of-the-model")
        monkeypatch.setenv("EGEM_NAMER_KEY", "of-the-namer")
        assert keys() == ["Bearer of-the-model", "Bearer of-the-judge", "Bearer of-the-namer"]


def test_a_server_that_dies_half_way_costs_no_answer(tmp_path):
    benchmark = Benchmark.from_folder("six", write_records(tmp_path / "r", 6))
    options = RunOptions(batch_size=4, depth=None)
    dead = {"after": 8}

    def reply(request, number):
        return (400, "out of memory") if number > dead["after"] else f"{len(text_of(request)) % 7}"

    with stub(reply) as (url, _):
        with pytest.raises(ProtocolError, match="out of memory"):
            run(benchmark, Endpoint(chat(url)), tmp_path / "a", options)
        kept = (tmp_path / "a" / "answers.jsonl").read_text().splitlines()
        assert len(kept) == 8
        dead["after"] = 1000
        run(benchmark, Endpoint(chat(url)), tmp_path / "a", options)
        run(benchmark, Endpoint(chat(url)), tmp_path / "b", options)
    assert (tmp_path / "a" / "answers.jsonl").read_bytes() == (tmp_path / "b" / "answers.jsonl").read_bytes()


def test_images_stand_where_their_marks_are():
    record = group(1)[0]
    parts = message_parts(record)
    assert [part["type"] for part in parts] == ["image_url", "text"]
    assert parts[1]["text"] == "\nQuestion 0 about nearest?"


def openeqa(folder, num=30):
    rows = [
        {
            "question": f"What is {index}?",
            "answer": f"thing {index % 5}",
            "category": ("object recognition", "world knowledge")[index % 2],
            "question_id": f"q{index}",
            "episode_history": f"hm3d-v0/{index // 3:03d}",
        }
        for index in range(num)
    ]
    rows[0]["extra_answers"] = ["a thing", "things"]
    (folder / "data").mkdir(parents=True)
    (folder / "data" / "open-eqa-v0.json").write_text(json.dumps(rows))
    for index in range(num // 3):
        for frame in range(3):
            path = folder / "data" / "frames" / "hm3d-v0" / f"{index:03d}" / f"{frame:05d}-rgb.png"
            sets.save(path, sets.png(frame))
            sets.save(path.with_name(f"{frame:05d}-depth.png"), b"not an image")
    return rows


def marks(request, number):
    """The judge of these tests: a mark from the last digit of the answer."""
    said = text_of(request).rsplit("Response: ", 1)[1]
    mark = int(said[-1]) if said[-1:].isdigit() else 1
    return (str(mark), f"Your mark: {mark}", f"Well.\nYour mark: {mark}\nbecause")[mark % 3]


def test_openeqa_is_marked_by_a_judge(tmp_path):
    rows = openeqa(tmp_path / "oe")
    benchmark = open_benchmark(f"openeqa={tmp_path / 'oe'}", BenchmarkOptions(cache=tmp_path, frames=4))
    records = list(benchmark.records())
    assert [len(record.images) for record in records] == [4] * 30
    assert records[0].messages[0].content.startswith("You are an intelligent question answering agent.")
    assert records[0].messages[0].content.endswith("<image>User Query: What is 0?")
    texts = {f"q{index}": f"it is {index % 7}" for index in range(30)}
    texts["q3"] = "a lamp. And more 5"  # cut after the full stop
    (tmp_path / "answers.json").write_text(json.dumps(texts))
    answers = AnswersFile(tmp_path / "answers.json")
    with pytest.raises(ConfigError, match="--judge-url"):
        run(benchmark, answers, tmp_path / "out", RunOptions(depth=None))
    with stub(marks) as (url, seen):
        judge = Judge(server=chat(url, temperature=0.2, seed=1234))
        scores = run(benchmark, answers, tmp_path / "out", RunOptions(depth=None, judge=judge, batch_size=8))
    given = [1 if index == 3 else min(max(index % 7, 1), 5) for index in range(30)]
    assert scores.totals[0].name == "LLM-Match"
    assert scores.totals[0].score.mean == pytest.approx(sum((m - 1) / 4 for m in given) / 30, abs=1e-9)
    assert scores.rule.judge == f"m at {url}, temperature 0.2, seed 1234"
    assert {request["max_tokens"] for request in seen} == {32}
    assert len(seen) == 30
    extra = next(text_of(request) for request in seen if "Question: What is 0?" in text_of(request))
    assert "Extra Answers: ['a thing', 'things']" in extra
    assert len(rows) == 30


def test_a_judge_that_fails_half_way_keeps_its_marks(tmp_path):
    openeqa(tmp_path / "oe")
    benchmark = open_benchmark(f"openeqa={tmp_path / 'oe'}", BenchmarkOptions(cache=tmp_path, frames=2))
    (tmp_path / "answers.json").write_text(json.dumps({f"q{i}": f"{i % 5 + 1}" for i in range(30)}))
    answers = AnswersFile(tmp_path / "answers.json")
    broken = {"is": True}

    def reply(request, number):
        return (500, "no credit") if broken["is"] and number > 12 else marks(request, number)

    with stub(reply) as (url, seen):
        options = RunOptions(depth=None, judge=Judge(server=chat(url)), batch_size=6)
        with pytest.raises(ProtocolError, match="no credit"):
            run(benchmark, answers, tmp_path / "out", options)
        assert not (tmp_path / "out" / "scores.json").exists()
        assert len((tmp_path / "out" / "answers.jsonl").read_text().splitlines()) == 12
        broken["is"] = False
        before = len(seen)
        scores = run(benchmark, answers, tmp_path / "out", options)
        assert len(seen) - before == 18
    assert scores.overall.score.mean == pytest.approx(0.5)


def test_a_judge_without_a_mark_is_an_error(tmp_path):
    openeqa(tmp_path / "oe")
    benchmark = open_benchmark(f"openeqa={tmp_path / 'oe'}", BenchmarkOptions(cache=tmp_path))
    record = next(iter(benchmark.questions()))
    with stub(lambda request, number: "I would say good") as (url, seen):
        with pytest.raises(ProtocolError, match=r"gave no mark .* in 3 attempts but 'I would say good'"):
            Judge(server=chat(url)).score(record, "x")
        assert len(seen) == 3


@pytest.mark.parametrize(
    ("text", "mark"),
    [
        ("4", 4),
        ("Your mark: 3", 3),
        ("So\nYour mark: 2\nx", 2),
        ("Your mark: x", None),
        ("good", None),
        ("", None),
    ],
)
def test_marks(text, mark):
    assert parse_mark(text) == mark


def test_answers_of_another_benchmark_are_refused(tmp_path):
    rows = [{"image": f"{i}.jpg", "caption": f"c {i}", "label": 1, "relation": "on"} for i in range(4)]
    sets.jsonl(tmp_path / "random_test.jsonl", rows)
    benchmark = open_benchmark(f"vsr={tmp_path}", BenchmarkOptions(cache=tmp_path))
    ids = [record.id for record in benchmark.questions()]

    def file(texts):
        path = tmp_path / "given.json"
        path.write_text(json.dumps(texts))
        return AnswersFile(path)

    file(dict.fromkeys(ids, "True")).check("vsr", ids)
    with pytest.raises(
        RecordError, match=r"holds answers to another benchmark: none of the 4 questions of vsr"
    ):
        file({"blink/val_1": "A"}).check("vsr", ids)
    with pytest.raises(RecordError, match=r"lacks answers to 1 of 4 questions of vsr, the first is vsr/3"):
        file(dict.fromkeys(ids[:3], "True")).check("vsr", ids)
    with pytest.raises(
        RecordError, match=r"1 answers to questions that vsr does not have, the first is more"
    ):
        file({**dict.fromkeys(ids, "True"), "more": "x"}).check("vsr", ids)


@pytest.mark.parametrize(
    ("rows", "text"),
    [
        ([{"id": "1", "question": "q", "answer": "A", "pred": "C"}], "C"),
        ([{"question_id": "1", "prompt": "q", "text": "C"}], "C"),
        ([{"id": "1", "text": "C", "answer": "C"}], "C"),
        ([{"id": "1", "answer": "C"}, {"id": "2", "answer": ""}], "C"),
        ([{"1": "C"}], "C"),
    ],
)
def test_what_a_model_said_is_found_in_files_of_others(tmp_path, rows, text):
    assert AnswersFile(sets.jsonl(tmp_path / "given.jsonl", rows)).texts["1"] == text


@pytest.mark.parametrize(
    ("rows", "problem"),
    [
        ([{"id": "1", "answer": "A", "text": "C"}], "row 1: `text` and `answer` differ.*`prediction`"),
        ([{"id": "1", "answer": "C"}, {"id": "2", "response": "C"}], "row 1: `response` and `answer` differ"),
        # The truth never stands in for an answer that was not given.
        ([{"id": "1", "answer": "A", "pred": "C"}, {"id": "2", "answer": "A"}], "row 2: `pred`, the model's"),
        ([{"id": "1", "answer": "A", "pred": None}], "row 1: `pred`, the model's answer, is missing or null"),
        ([{"answer": "A"}, {"answer": "B"}], "row 1: one of id"),
        ([{"id": 1}], "answers are needed as one of prediction, pred"),
    ],
)
def test_what_may_be_the_truth_is_never_scored(tmp_path, rows, problem):
    with pytest.raises(RecordError, match=problem):
        AnswersFile(sets.jsonl(tmp_path / "given.jsonl", rows))


@needs_real_data
def test_real_questions(tmp_path):
    options = BenchmarkOptions(cache=tmp_path)
    for name, num in (("vsr", 2195), ("vsr-zeroshot", 1222)):
        benchmark = open_benchmark(f"{name}={ROOT / 'vsr'}", options)
        records = list(benchmark.questions())
        ids = [record.id for record in records]
        assert len(ids) == num
        yes = sum(record.answer.text == "True" for record in records)
        if name == "vsr":
            assert yes == 1181
        else:
            path = sets.jsonl(tmp_path / "yes.jsonl", [{"id": id, "text": "True"} for id in ids])
            scores = run(benchmark, AnswersFile(path), tmp_path / name, RunOptions(depth=None))
            assert scores.overall.score.mean == pytest.approx(yes / num)
            assert scores.overall.majority is not None
    benchmark = open_benchmark(f"openeqa={ROOT / 'open-eqa'}", options)
    records = list(benchmark.questions())
    assert len(records) == 1636
    assert sum(record.meta["extra_answers"] is not None for record in records) == 263
    assert "Your Turn:\nQuestion: " in judge_prompt(records[0], "a sofa")
