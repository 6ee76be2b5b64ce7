"""The page with tables and errors, in a real browser where there is one."""

import json
import shutil

import pytest
import torch
from browsing import NAME, TITLE, text
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import Select

import predict
import report
from evaluation import PATTERNS, prepare_gold, score_predictions, train_facts
from hingeabl.data.relations import DEFAULT_REL2ID, RELATION_NAMES, load_rel2id
from hingeabl.errors import UserError
from hingeabl.files import atomic_write, read_json, save_tensors, sha256_of_file
from hingeabl.readers.documents import load_documents
from hingeabl.reporting import page
from hingeabl.reporting.figures import CAPTIONS
from hingeabl.reporting.names import loss_title
from hingeabl.reporting.pairs import read_pairs
from hingeabl.reporting.records import read_run
from losses import get_loss


@pytest.fixture(scope="module")
def data(sample, tmp_path_factory):
    """The sample's files; a dev document has a title, and an entity a name, that are HTML."""
    folder = tmp_path_factory.mktemp("data")
    for split in ("train", "dev", "test"):
        documents = json.loads((sample / f"{split}.json").read_text())
        if split == "dev":
            documents[1]["title"] = TITLE
            documents[1]["vertexSet"][0][0]["name"] = NAME
            mention = documents[1]["vertexSet"][0][0]
            documents[1]["sents"][mention["sent_id"]][mention["pos"][0]] = NAME
        (folder / f"{split}.json").write_text(json.dumps(documents))
    return folder


def make_run(folder, data, loss, seed, missed):
    """A finished run that predicts gold, but misses a share of the pairs (the threshold is too high, or for every third
    of them another relation outranks them) and invents as many."""
    rel2id = load_rel2id()
    chance = torch.Generator().manual_seed(seed)
    scores = {"seed": seed, "best_epoch": 1}
    folder = folder / f"bert_{loss}" / f"seed_{seed}"
    folder.mkdir(parents=True)
    facts = train_facts(load_documents(data / "train.json"))
    for split, name in (("dev", "result_dev.json"), ("test", "result.json")):
        documents = load_documents(data / f"{split}.json")
        rows, found = [], []
        for number, document in enumerate(documents):
            gold = {}
            for label in document["labels"]:
                gold.setdefault((label["h"], label["t"]), []).append(rel2id[label["r"]])
            for pair in ((h, t) for h in range(len(document["vertexSet"])) for t in range(len(document["vertexSet"]))):
                relations, draw = gold.get(pair, []), torch.rand(1, generator=chance).item()
                if pair[0] == pair[1] or not (relations or draw < missed / 10):
                    continue
                row = torch.rand(97, generator=chance)
                row[0] = 2
                row[relations or [5]] += 1 if relations and draw < missed else 3
                row[90] = 1.99 if relations and draw < missed / 3 else row[90]
                rows.append((number, *pair))
                found.append(row)
        found, pairs = torch.stack(found), torch.tensor(rows, dtype=torch.int32)
        names = list(rel2id)
        predictions = [
            {"title": documents[rows[row][0]]["title"], "h_idx": rows[row][1], "t_idx": rows[row][2], "r": names[c + 1]}
            for row, c in get_loss(loss).predict(found)[:, 1:].nonzero().tolist()
        ]
        save_tensors(
            folder / f"pair_scores_{split}.safetensors",
            {"document": pairs[:, 0].contiguous(), "entities": pairs[:, 1:].contiguous(), "scores": found},
        )
        (folder / name).write_text(json.dumps(predictions))
        scores[split] = score_predictions(predictions, prepare_gold(documents, facts)) | dict.fromkeys(PATTERNS, 0)
        patterns = read_patterns(documents, rel2id, rows, found)
        scores[split] |= {pattern: patterns.count(pattern) for pattern in PATTERNS}
    settings = {f"{split}_file": f"{split}.json" for split in ("train", "dev", "test")} | {"data_dir": str(data)}
    settings |= {"backbone": "atlop", "model_name_or_path": "small", "num_labels": 4, "margin": None}
    digests = {split: sha256_of_file(data / f"{split}.json") for split in ("train", "dev", "test")}
    config = {"seed": seed, "settings": settings, "loss": {"name": loss}, "data": digests}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "scores.json").write_text(json.dumps(scores))
    shutil.copy(DEFAULT_REL2ID, folder / "rel2id.json")
    return folder


def read_patterns(documents, rel2id, rows, scores):
    """Each pair's pattern, counted plainly; 2 is the threshold."""
    found = []
    for (number, head, tail), row in zip(rows, scores.tolist(), strict=True):
        labels = documents[number]["labels"]
        gold = {rel2id[label["r"]] for label in labels if (label["h"], label["t"]) == (head, tail)}
        predicted = {relation for relation in range(1, 97) if row[relation] > row[0]}
        others = max(row[relation] for relation in range(1, 97) if relation not in gold)
        if predicted == gold:
            found.append("correct")
        elif predicted or not gold:
            found.append("FP")
        else:
            found.append("FN_CRK" if min(row[relation] for relation in gold) > others else "FN_IRK")
    return found


@pytest.fixture(scope="module")
def runs(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    for loss, missed in (("atl", 0.5), ("hingeabl_released", 0.2)):
        for seed in (1, 5):
            make_run(folder, data, loss, seed, missed)
    return folder


@pytest.fixture(scope="module")
def report_page(runs):
    report.main(["--html", str(runs / "report.html"), str(runs)])
    return runs / "report.html"


def opened(browser, path):
    """The page, freshly loaded; its console must be empty."""
    browser.get("about:blank")
    browser.get(path.as_uri())
    assert browser.get_log("browser") == []
    return browser


def choose(browser, name, start):
    select = Select(browser.find_element("id", name))
    [option] = [option.text for option in select.options if option.text.startswith(start)]
    select.select_by_visible_text(option)


def show_only(browser, *patterns):
    for box in browser.find_elements("css selector", "#patterns input"):
        if box.is_selected() != (box.get_attribute("id").removeprefix("pattern-") in patterns):
            box.click()


def pairs_in_view(browser):
    return int(text(browser, "#count")[0].split()[0].replace(",", ""))


def test_what_a_document_says_cannot_end_the_data_that_it_stands_in():
    text = page.block("data-documents", [NAME, "<!--", "<script"])
    start, end = '<script type="application/json" data-documents>', "</script>"
    assert text.startswith(start) and text.endswith(end)
    inside = text[len(start) : -len(end)]
    assert "<" not in inside and json.loads(inside) == [NAME, "<!--", "<script"]


def test_pattern_counts_on_the_page_are_those_of_the_scores(browser, report_page, runs):
    opened(browser, report_page)
    for loss, seed in (("atl", 1), ("hingeabl_released", 5)):
        run, folder = f"ATLOP, {loss_title(loss)}, seed {seed}", f"bert_{loss}/seed_{seed}"
        choose(browser, "run", run)
        for pattern in PATTERNS[1:]:
            show_only(browser, pattern)
            assert pairs_in_view(browser) == read_json(runs / folder / "scores.json")["dev"][pattern] > 0


def test_a_known_error_of_a_known_document_is_shown(browser, report_page, runs):
    """Every error of one document, compared with the run's files; the document's title and a name are HTML."""
    names = read_json(RELATION_NAMES)
    pairs = read_pairs(read_run(runs / "bert_atl" / "seed_1"), "dev")
    wanted = [row for row in range(len(pairs.document)) if pairs.document[row] == 1 and pairs.pattern[row] > 0]
    document = pairs.documents[1]
    assert len(wanted) > 3 and document["title"] == TITLE
    opened(browser, report_page)
    choose(browser, "document", TITLE)
    assert pairs_in_view(browser) == len(wanted)
    relations = list(pairs.rel2id)
    seen_name = False
    for at, row in enumerate(wanted):
        browser.execute_script(f"document.getElementById('row-{at}').click()")  # rows are drawn anew while scrolling
        assert text(browser, "#pair h4")[-1] == TITLE
        assert text(browser, "#pair .note .badge") == [PATTERNS[pairs.pattern[row]]]
        for side, entity in zip(("head", "tail"), pairs.entities[row].tolist(), strict=True):
            mentions = document["vertexSet"][entity]
            assert text(browser, f"#pair .{side}name") == [mentions[0]["name"]]
            words = [" ".join(document["sents"][m["sent_id"]][m["pos"][0] : m["pos"][1]]) for m in mentions]
            assert sorted(text(browser, f"#pair mark.{side}")) == sorted(words)
            seen_name |= mentions[0]["name"] == NAME
        gold = {relations[c] for c in pairs.labels[row].nonzero().flatten()}
        named = text(browser, "#pair .facts li")[1].removeprefix("gold: ")
        assert set(named.split(", ")) == ({names[relation] for relation in gold} or {"none"})
        assert f"against the threshold, {pairs.threshold[row]:.2f}" in text(browser, "#pair .axis")[0]
        bars = dict(zip(text(browser, ".bar .name"), text(browser, ".bar .score"), strict=True))
        for relation in gold:
            score = f"{pairs.scores[row, pairs.rel2id[relation]]:.2f}"
            assert [bars[k] for k in bars if k.endswith(f" {names[relation]}")] == [score]
        best = pairs.scores[row, 1:].topk(page.TOP_RELATIONS).indices + 1
        assert {names[relations[c]] for c in best} <= {name.lstrip("✓–✗ ") for name in bars}
    assert seen_name and not browser.find_elements("css selector", "#pair img")
    assert len(text(browser, "#pair .text p")) == len(document["sents"])


def test_the_relation_filter_leaves_pairs_of_that_relation(browser, report_page, runs):
    pairs = read_pairs(read_run(runs / "bert_atl" / "seed_1"), "dev")
    wrong = pairs.pattern > 0
    relation = (pairs.labels & wrong[:, None]).sum(dim=0).argmax().item()
    count = int((wrong & (pairs.labels | pairs.predicted)[:, relation]).sum())
    opened(browser, report_page)
    before = pairs_in_view(browser)
    choose(browser, "relation", f"{read_json(RELATION_NAMES)[list(pairs.rel2id)[relation]]} ({count})")
    assert pairs_in_view(browser) == count < before == int(wrong.sum())
    choose(browser, "relation", "all")
    assert pairs_in_view(browser) == before


def test_the_keyboard_moves_through_pairs_documents_and_patterns(browser, report_page):
    opened(browser, report_page)
    browser.execute_script("document.getElementById('pairs').scrollIntoView()")
    keys = browser.find_element("id", "list")
    chosen = 'return document.querySelector("[aria-selected=true]").id'
    assert browser.execute_script(chosen) == "row-0"
    keys.send_keys("j", Keys.ARROW_DOWN, "j")
    assert browser.execute_script(chosen) == "row-3"
    keys.send_keys("k", Keys.ARROW_UP)
    assert browser.execute_script(chosen) == "row-1"
    title = text(browser, "#pair h4")[-1]
    keys.send_keys("]")
    assert text(browser, "#pair h4")[-1] != title
    keys.send_keys("[")
    assert text(browser, "#pair h4")[-1] == title and browser.execute_script(chosen) == "row-0"
    before = pairs_in_view(browser)
    keys.send_keys("0")
    assert pairs_in_view(browser) > before and browser.find_element("id", "pattern-correct").is_selected()
    keys.send_keys("0", "r")
    assert pairs_in_view(browser) == before and browser.switch_to.active_element.get_attribute("id") == "run"


def test_another_run_is_shown_beside(browser, report_page, runs):
    opened(browser, report_page)
    assert len(text(browser, ".chart")) == 1
    choose(browser, "beside", "ATLOP, HingeABL, seed 1")
    show_only(browser, "FN_CRK")
    pairs = read_pairs(read_run(runs / "bert_hingeabl_released" / "seed_1"), "dev")
    first = read_pairs(read_run(runs / "bert_atl" / "seed_1"), "dev")
    row = (first.pattern == PATTERNS.index("FN_CRK")).nonzero()[0, 0]
    key = (first.document[row], *first.entities[row])
    [other] = [i for i in range(len(pairs.document)) if (pairs.document[i], *pairs.entities[i]) == key]
    assert text(browser, ".chart .badge") == ["FN_CRK", PATTERNS[pairs.pattern[other]]]


def test_the_page_asks_for_nothing_and_runs_nothing_of_a_documents(browser, report_page):
    opened(browser, report_page)  # an alert would make this fail
    assert browser.execute_script("return performance.getEntriesByType('resource').length") == 0
    kinds = [node.get_attribute("type") for node in browser.find_elements("css selector", "script")]
    assert kinds.count("") == 1 and set(kinds) == {"", "application/json"}
    assert TITLE not in report_page.read_text()


def test_tables_on_the_page_hold_the_figures_of_the_summary(browser, report_page, runs, capsys):
    opened(browser, report_page)
    shown = text(browser, "caption")
    assert [title.split(".")[0] for title in shown if title.startswith("Table")] == [
        f"Table {n}" for n in (1, 3, 4, 7, "precision", "thresholds", 5, 6)
    ]
    report.main(["--table", "3", "--format", "json", str(runs)])
    cells = text(browser, "#section-0 td")
    for row in json.loads(capsys.readouterr().out)["rows"]:
        place = cells.index(loss_title(row["name"]), cells.index("HingeABL") - 8)
        assert cells[place + 2] == f"{row['f1']['mean']:.2f} ± {row['f1']['std']:.2f}"


def test_every_figure_is_in_the_page_or_the_reason_why_not(browser, report_page):
    opened(browser, report_page)
    drawn = browser.execute_script("return [...document.images].filter(i => i.naturalWidth > 300).map(i => i.alt)")
    missing = [note.split(": not drawn. ") for note in text(browser, "#section-1 .note")]
    reasons = {"epochs": "metrics.jsonl", "length": "after how many steps"}  # the runs here were not trained
    assert drawn == [caption for name, caption in CAPTIONS.items() if name not in reasons]
    assert [caption for caption, _ in missing] == [CAPTIONS[name] for name in reasons]
    assert all(part in reason for part, (_, reason) in zip(reasons.values(), missing, strict=True))


def test_the_page_has_the_extended_table_where_there_are_losses_that_the_paper_lacks(data, tmp_path):
    found = [read_run(make_run(tmp_path, data, loss, 1, 0.3)) for loss in ("hingeabl_released", "atgl")]
    more = ["3_later", "precision", "thresholds"]
    assert [table.number for table in report.tables_of(found, [])] == [3, 4, 7, *more]
    assert [table.number for table in report.tables_of(found[1:], [])] == more


def test_only_the_rows_in_view_are_in_the_page(browser, tmp_path):
    rel2id = {"Na": 0, "P17": 1}
    entity = [{"name": "x", "type": "LOC", "sent_id": 0, "pos": [0, 1]}]
    document = {"title": "x", "sents": [["x"]], "vertexSet": [entity, entity], "labels": []}
    rows = [[number, 0, 1, 1, 0.0, [1], [1, 1.0]] for number in range(20_000)]
    blocks = [page.about_block(rel2id, ["run"], True), page.documents_block([document] * 20_000, rel2id)]
    with atomic_write(tmp_path / "large.html") as file:
        page.write_page(file, "large", {}, "Pairs", [*blocks, page.block('data-run="0"', rows)])
    opened(browser, tmp_path / "large.html")
    assert pairs_in_view(browser) == 20_000 and 5 < len(text(browser, ".row")) < 100
    browser.execute_script("const list = document.getElementById('list'); list.scrollTop = list.scrollHeight")
    browser.execute_async_script("requestAnimationFrame(() => requestAnimationFrame(arguments[0]))")
    assert browser.find_elements("id", "row-19999") and len(text(browser, ".row")) < 100


def test_a_page_of_predictions_shows_what_the_file_holds(browser, sample, tmp_path, trained, monkeypatch):
    monkeypatch.setattr(predict, "GROUP_SIZE", 2)  # several groups
    files = ["--input", str(sample / "test.json"), "--output", str(tmp_path / "found.json")]
    predict.main(["--load_path", str(trained), *files, "--html", str(tmp_path / "found.html")])
    found = read_json(tmp_path / "found.json")
    opened(browser, tmp_path / "found.html")
    assert pairs_in_view(browser) == len({(e["title"], e["h_idx"], e["t_idx"]) for e in found}) > 10
    last = found[-1]
    mine = [
        e
        for e in found
        if [e[key] for key in ("title", "h_idx", "t_idx")] == [last[key] for key in ("title", "h_idx", "t_idx")]
    ]
    browser.execute_script("select(1e9)")
    assert text(browser, "#pair h4")[-1] == last["title"]
    assert set(text(browser, "#pair .facts li")[0].removeprefix("predicted: ").split(", ")) == {
        e["relation"] for e in mine
    }
    bars = dict(zip(text(browser, ".bar .name"), text(browser, ".bar .score"), strict=True))
    assert bars[f"✓ {last['relation']}"] == f"{last['score']:.2f}"
    sure = sorted(e["confidence"] for e in found)[len(found) // 2]
    fewer = ["--min_confidence", str(sure), "--html", str(tmp_path / "fewer.html")]
    predict.main(["--load_path", str(trained), *files, *fewer])
    left = {(e["title"], e["h_idx"], e["t_idx"]) for e in read_json(tmp_path / "found.json")}
    opened(browser, tmp_path / "fewer.html")
    assert pairs_in_view(browser) == len(left) < len({(e["title"], e["h_idx"], e["t_idx"]) for e in found})


def test_the_scores_that_training_keeps_give_its_counts_and_predictions(trained, sample):
    run = read_run(trained)
    for split, name in (("dev", "result_dev.json"), ("test", "result.json")):
        pairs = read_pairs(run, split)
        relations = list(pairs.rel2id)
        found = {
            (pairs.documents[pairs.document[row]]["title"], *pairs.entities[row].tolist(), relations[column])
            for row, column in pairs.predicted.nonzero().tolist()
        }
        assert found == {(e["title"], e["h_idx"], e["t_idx"], e["r"]) for e in read_json(trained / name)}
        wrong = [int((pairs.pattern == number).sum()) for number in range(1, 4)]
        assert wrong == [run.scores[split][pattern] for pattern in PATTERNS[1:]] and sum(wrong)
        assert pairs.labels.sum() == sum(len(d["labels"]) for d in load_documents(sample / f"{split}.json"))


@pytest.mark.parametrize(
    ("harm", "expected"),
    [
        (
            lambda run, data: (run / "pair_scores_dev.safetensors").unlink(),
            r"pair_scores_dev\.safetensors: no such file",
        ),
        (lambda run, data: (run / "pair_scores_dev.safetensors").write_bytes(b"x" * 99), "does not hold the scores"),
        (
            lambda run, data: shutil.copy(run / "pair_scores_test.safetensors", run / "pair_scores_dev.safetensors"),
            "are not those of its dev file",
        ),
        (lambda run, data: (data / "dev.json").write_text("[]"), "is gone or has changed"),
    ],
)
def test_pages_of_runs_whose_files_do_not_fit_are_refused_and_nothing_is_left(data, tmp_path, harm, expected):
    shutil.copytree(data, tmp_path / "data")
    run = make_run(tmp_path, tmp_path / "data", "atl", 1, 0.5)
    harm(run, tmp_path / "data")
    with pytest.raises(UserError, match=expected):
        report.main(["--html", str(tmp_path / "report.html"), str(tmp_path)])
    assert not list(tmp_path.glob("report.html*"))


def test_the_predicted_evidence_of_a_pair_is_named_and_marked(browser, tmp_path):
    entity = [{"name": "x", "type": "LOC", "sent_id": 0, "pos": [0, 1]}]
    document = {"title": "x", "sents": [["x"], ["y"], ["z"]], "vertexSet": [entity, entity], "labels": []}
    blocks = [page.about_block({"Na": 0, "P17": 1}, ["run"], True), page.documents_block([document], {"P17": 1})]
    row = [0, 0, 1, 1, 0.0, [1], [1, 1.0], [0, 2]]
    with atomic_write(tmp_path / "evidence.html") as file:
        page.write_page(file, "evidence", {}, "Pairs", [*blocks, page.block('data-run="0"', [row])])
    opened(browser, tmp_path / "evidence.html")
    assert "evidence: sentences 0, 2" in text(browser, ".facts li")
    assert [line.strip() for line in text(browser, ".text p.evidence")] == ["0x", "2z"]
