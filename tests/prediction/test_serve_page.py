"""The page of scripts/serve.py in a real browser, where there is one."""

import json
import threading

import pytest
from browsing import NAME, TITLE, text
from selenium.webdriver.support.ui import Select
from serving import TEXT, InBackground, post, served_here, wait_until

for needed in ("fastapi", "uvicorn", "python_multipart"):
    pytest.importorskip(needed, reason="scripts/requirements/serve.txt is not installed")

from hingeabl.prediction import answers, server

HOSTILE = {
    "title": TITLE,
    "sents": [[NAME, "met", "\"'><b>Bo</b>", "in", "Rome", "."]],
    "vertexSet": [
        [{"name": NAME, "sent_id": 0, "pos": [0, 1], "type": '"><img src=x onerror=alert(2)>'}],
        [{"name": "\"'><b>Bo</b>", "sent_id": 0, "pos": [2, 3], "type": "PER"}],
        [{"name": "Rome", "sent_id": 0, "pos": [4, 5], "type": 5}],
        [],
    ],
}


@pytest.fixture
def page(browser, port):
    """The page, freshly loaded; at the end its console must be empty."""
    yield opened(browser, port)
    assert browser.get_log("browser") == []


def opened(driver, port):
    driver.get("about:blank")
    driver.get(f"http://127.0.0.1:{port}/")
    driver.get_log("browser")
    return driver


def shown(driver, name):
    return driver.find_element("id", name).is_displayed()


def find(driver):
    """Press the button, and wait for the answer or the error."""
    driver.execute_script("document.getElementById('result').hidden = true")
    driver.find_element("id", "find").click()
    wait_until(lambda: shown(driver, "result") or shown(driver, "error"))


def choose(driver, path):
    driver.find_element("id", "file").send_keys(str(path))


def saved(tmp_path, name, value):
    (tmp_path / name).write_text(json.dumps(value), encoding="utf-8")
    return tmp_path / name


def colours(driver, selector):
    """{text: background or fill} of elements."""
    return dict(
        driver.execute_script(
            "return [...document.querySelectorAll(arguments[0])].map(n => {const s = getComputedStyle(n);"
            "return [n.textContent, n.matches('circle') ? s.fill : s.backgroundColor]})",
            selector,
        )
    )


def edges(driver):
    """What the graph says of each of its lines."""
    return text(driver, "#graph .edge > text > title")


def test_a_pasted_text_is_shown_with_coloured_entities_a_table_and_a_graph(page, predictor):
    box = page.find_element("id", "text")
    box.send_keys(TEXT)
    assert not shown(page, "result")
    find(page)
    assert " ".join(text(page, "#shown p")) == TEXT
    marks = colours(page, "#shown mark")
    assert {"Marie Curie", "Pierre Curie", "Warsaw", "Paris", "1895"} <= set(marks)
    legend = colours(page, "#legend .type")
    assert marks["Warsaw"] == marks["Paris"] == legend["LOC"] != legend["TIME"] == marks["1895"]
    assert legend["PER"] == marks["Marie Curie"] not in (legend["LOC"], legend["TIME"])
    relations = predictor(TEXT)
    assert len(relations) > 5
    rows = [tuple(text(row, "td")) for row in page.find_elements("css selector", "#rows tr")]
    wanted = sorted(relations, key=lambda relation: -relation.margin)
    assert rows == [(w.head.name, w.relation, w.tail.name, f"{w.confidence:.2f}", f"{w.margin:.2f}") for w in wanted]
    assert text(page, "#count") == [f"({len(relations)})"]
    pairs = {}
    for relation in wanted[:80]:  # as many as are drawn
        pairs.setdefault((relation.head.number, relation.tail.number), []).append(relation.relation)
    assert sorted(edges(page)) == sorted(", ".join(names) for names in pairs.values())
    drawn = page.execute_script("return [...document.querySelectorAll('#graph .node')].map(n => n.entities[0])")
    assert drawn == sorted({number for pair in pairs for number in pair})


def test_the_graph_is_the_same_each_time_and_inside_its_frame(page, sample):
    choose(page, sample / "test.json")
    find(page)
    first = page.find_element("id", "graph").get_property("innerHTML")
    find(page)
    assert page.find_element("id", "graph").get_property("innerHTML") == first
    outside = page.execute_script(
        "const svg = document.querySelector('#graph svg'), box = svg.getBoundingClientRect();"
        "return [...svg.querySelectorAll('circle, .node text')].map(n => n.getBoundingClientRect())"
        ".filter(b => b.left < box.left || b.right > box.right || b.top < box.top || b.bottom > box.bottom).length"
    )
    assert outside == 0 and page.find_elements("css selector", "#graph circle")


def test_pointing_at_an_entity_marks_what_is_its_own(page, sample):
    choose(page, sample / "test.json")
    find(page)
    page.execute_script("document.querySelector('#graph .node').dispatchEvent(new MouseEvent('mouseenter'))")
    assert page.execute_script(
        "const e = document.querySelector('#graph .node').entities[0];"
        "return [...document.querySelectorAll('#rows tr, mark, .edge')]"
        ".every(n => n.classList.contains('on') === n.entities.includes(e))"
    )
    assert page.find_elements("css selector", "#result.picked")
    page.execute_script("document.querySelector('#graph .node').dispatchEvent(new MouseEvent('mouseleave'))")
    assert not page.find_elements("css selector", "#result.picked")


def test_the_slider_leaves_out_what_is_less_sure_and_pointing_at_a_relation_marks_its_evidence(page):
    place = {"pos": [0, 1], "type": "LOC"}
    entities = [[{"name": name, "sent_id": number, **place}] for number, name in enumerate(("Anna", "Rome", "Oslo"))]
    pairs = [(0, 1, 0.9, [1]), (1, 2, 0.6, [0, 2]), (0, 2, 0.3, [])]
    predictions = [
        {"h_idx": h, "t_idx": t, "r": "P17", "relation": "country", "score": 2, "threshold": 1, "margin": sure}
        | {"confidence": sure, "evidence": evidence}
        for h, t, sure, evidence in pairs
    ]
    document = {
        "title": "A",
        "sents": [["Anna"], ["Rome"], ["Oslo"]],
        "vertexSet": entities,
        "predictions": predictions,
    }
    page.execute_script(
        "state.answer = {documents: [arguments[0]], warnings: []}; byId('result').hidden = false; show(0)", document
    )
    assert text(page, "#count") == ["(3)"] and shown(page, "sure")
    assert text(page, "#legend .type") == ["LOC"] and text(page, "#legend") == ["LOC place"]
    for least, rows, edges in ((0.5, ["0.90", "0.60"], 2), (0.95, [], 0), (0, ["0.90", "0.60", "0.30"], 3)):
        page.execute_script(
            "byId('least').value = arguments[0]; byId('least').dispatchEvent(new Event('input'))", least
        )
        assert text(page, "#rows td:nth-child(4)") == rows
        assert len(page.find_elements("css selector", "svg .edge")) == edges
        assert text(page, "#limit") == [f"{least:.2f}"]
    for row, marked in ((0, ["Rome"]), (1, ["Anna", "Oslo"]), (2, [])):
        page.execute_script(
            "document.querySelectorAll('#rows tr')[arguments[0]].dispatchEvent(new Event('mouseenter'))", row
        )
        assert text(page, "#shown .evidence") == marked


def test_a_chosen_file_is_shown_document_by_document(page, sample, trained):
    documents = json.loads((sample / "test.json").read_text())
    choose(page, sample / "test.json")
    assert "test.json" in text(page, "#filename")[0] and not page.find_element("id", "text").is_enabled()
    find(page)
    select = Select(page.find_element("id", "document"))
    assert [option.text for option in select.options] == [document["title"] for document in documents]
    for number, document in enumerate(documents):
        select.select_by_index(number)
        entries = [e for e in json.loads((trained / "result.json").read_text()) if e["title"] == document["title"]]
        assert text(page, "#count") == [f"({len(entries):,})"]
        assert len(text(page, "#rows tr")) == min(len(entries), 500)
        assert len(text(page, "#shown p")) == len(document["sents"])
    page.find_element("id", "remove").click()
    assert page.find_element("id", "text").is_enabled() and not shown(page, "chosen")


def test_a_dropped_file_is_taken(page):
    page.execute_script(
        "const data = new DataTransfer();"
        "data.items.add(new File([arguments[0]], 'dropped.json'));"
        "const told = (kind) => document.body.dispatchEvent("
        "new DragEvent(kind, {dataTransfer: data, bubbles: true, cancelable: true}));"
        "told('dragover'); window.seen = !document.getElementById('drop').hidden; told('drop');",
        json.dumps(HOSTILE),
    )
    assert page.execute_script("return window.seen") and not shown(page, "drop")
    assert "dropped.json" in text(page, "#filename")[0]
    find(page)
    assert len(text(page, "#shown p")) == 1


def test_a_download_is_the_servers_file(page, sample, port, tmp_path):
    page.execute_cdp_cmd("Browser.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(tmp_path)})
    choose(page, sample / "test.json")
    find(page)
    offered = text(page, "#downloads button")
    assert offered[:3] == ["json", "jsonl", "csv"]
    page.find_element("xpath", "//div[@id='downloads']/button[text()='csv']").click()
    path = tmp_path / "predictions.csv"
    expected = post(port, (sample / "test.json").read_bytes(), "?form=csv")[2]
    wait_until(lambda: path.exists() and path.read_bytes() == expected)


def test_hostile_names_are_shown_as_text(page, tmp_path):
    choose(page, saved(tmp_path, "<img src=x onerror=alert(3)>.json", [HOSTILE, HOSTILE]))
    find(page)
    assert not shown(page, "error"), text(page, "#error")
    assert text(page, "#shown mark")[:2] == [NAME, "\"'><b>Bo</b>"]
    assert text(page, "#document option") == [TITLE, TITLE]
    assert '"><img src=x onerror=alert(2)>' in text(page, "#legend .type")
    assert not page.find_elements("css selector", "img, main b, script:not([src]):not([data-about])")
    assert any(NAME in title for title in text(page, "#graph .node title"))


def test_warnings_are_shown(page, tmp_path):
    choose(page, saved(tmp_path, "doubtful.json", HOSTILE))
    find(page)
    assert any("1 entities have no mention" in line for line in text(page, "#warnings li"))
    page.find_element("id", "remove").click()
    choose(page, saved(tmp_path, "good.json", {**HOSTILE, "vertexSet": HOSTILE["vertexSet"][:3]}))
    find(page)
    assert not shown(page, "warnings")


def test_an_error_is_shown_and_the_next_request_answered(browser, port, tmp_path):
    page = opened(browser, port)
    choose(page, saved(tmp_path, "broken.json", [{"title": "<b>x</b>"}]))
    find(page)
    assert "input: document 0 ('<b>x</b>'): sents: is missing" in text(page, "#error")[0]
    choose(page, saved(tmp_path, "good.json", HOSTILE))
    find(page)
    assert not shown(page, "error") and shown(page, "result")


def test_a_file_beyond_the_limit_is_told_without_sending_it(browser, predictor, tmp_path):
    with served_here(predictor, max_bytes=2000) as (port, service):
        page = opened(browser, port)
        service.respond = None  # would fail if it were asked
        choose(page, saved(tmp_path, "large.json", [HOSTILE] * 10))
        page.find_element("id", "find").click()
        wait_until(lambda: shown(page, "error"))
        assert "and the limit is 2,000" in text(page, "#error")[0]
        assert not page.execute_script(
            "return performance.getEntriesByType('resource').filter(e => e.name.includes('predict')).length"
        )


def test_a_full_queue_is_told_and_a_request_can_be_stopped(browser, predictor, monkeypatch, tmp_path):
    go_on = threading.Event()
    monkeypatch.setattr(server, "answer", lambda *_: go_on.wait(60) and answers.Answer(b"{}", []))
    with served_here(predictor, max_waiting=1) as (port, service):
        try:
            page = opened(browser, port)
            waiting = InBackground(port, "x")
            wait_until(lambda: service.taken == 1)
            page.find_element("id", "text").send_keys(TEXT)
            page.find_element("id", "find").click()
            wait_until(lambda: service.taken == 2)
            assert text(page, "#status") == ["working…"] and not page.find_element("id", "find").is_enabled()
            page.find_element("id", "stop").click()
            wait_until(lambda: service.taken == 1)
            assert page.find_element("id", "find").is_enabled() and not shown(page, "error")
            second = InBackground(port, "y")
            wait_until(lambda: service.taken == 2)
            page.find_element("id", "find").click()
            wait_until(lambda: shown(page, "error"))
            assert text(page, "#error") == ["busy: 1 other requests are waiting; try again in a few seconds"]
        finally:
            go_on.set()
        assert waiting.wait()[0] == second.wait()[0] == 200


def test_a_server_that_is_gone_is_told(browser, predictor):
    with served_here(predictor) as (port, _):
        page = opened(browser, port)
        page.find_element("id", "text").send_keys(TEXT)
    page.find_element("id", "find").click()
    wait_until(lambda: shown(page, "error"))
    assert text(page, "#error") == ["The server does not answer; is it still running?"]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [400, 1280])
def test_nothing_is_wider_than_the_window_and_texts_stand_out(page, sample, width, scheme):
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    page.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
    try:
        choose(page, sample / "test.json")
        find(page)
        widths = page.execute_script("const all = document.documentElement; return [all.scrollWidth, all.clientWidth]")
        assert widths[0] == widths[1] <= width
        found = page.execute_script(
            "return [...document.querySelectorAll('body, mark, .type, button, .note, textarea')].map(n => {"
            "let b = n; while (getComputedStyle(b).backgroundColor === 'rgba(0, 0, 0, 0)') b = b.parentElement;"
            "return [getComputedStyle(n).color, getComputedStyle(b).backgroundColor]})"
        )
        assert len(found) > 20
        assert min(contrast(*pair) for pair in found) >= 4.5
    finally:
        page.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
        page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


def contrast(*colours):
    """Contrast ratio of two CSS colours, rgb(), as WCAG 2 defines it."""
    lights = []
    for colour in colours:
        parts = [float(part) / 255 for part in colour.strip("rgba()").split(",")[:3]]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        lights.append(0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2])
    return (max(lights) + 0.05) / (min(lights) + 0.05)
