"""What broken files are read by, each with a plain reading of the same bytes to compare with: for fuzz.py.

Each target gets good files (World), a number to choose among them, and edits of structure and bytes; it raises
UserError, or checks what it has read.
"""

import contextlib
import io
import json
import os
import pickle
from unittest import mock

import distill
import numpy as np
import torch
from conftest import MINILM, SMALL, tiny
from fuzz_data import fuzz_documents, fuzz_forms, fuzz_gold, fuzz_predictions, fuzz_rel2id, fuzz_stream
from make_sample import make_sample
from mutate import edit_bytes, mutated, mutated_tensors
from trainings import arguments
from transformers import AutoTokenizer, BertConfig, BertModel

import predict
import report
import train
from evaluation import prepare_gold, train_facts
from hingeabl.data.cache import pieces_path
from hingeabl.data.relations import load_rel2id
from hingeabl.errors import UserError
from hingeabl.files import read_json
from hingeabl.modeling.checkpoints import read_weights
from hingeabl.readers.documents import load_documents
from hingeabl.reporting.pairs import read_pairs
from hingeabl.reporting.records import count_by_document, dev_scores, read_runs
from hingeabl.reporting.tables import table_of_runs
from hingeabl.training import distillation
from hingeabl.training.resume import CHECKPOINTS, TrainingProgress, load_checkpoint, save_checkpoint, take_checkpoint
from hingeabl.training.runs import finished_scores, summarise
from hingeabl.training.saved_run import load_weights, open_run
from losses import get_loss
from prepro import read_docred


class World:
    """Good files of every kind, in a folder, to be changed: documents, and a trained run with a teacher's scores."""

    def __init__(self, folder, redocred=None):
        self.folder = folder
        tokenizer = AutoTokenizer.from_pretrained(MINILM)
        self.encoder = tiny(BertConfig, BertModel, tokenizer, folder / "encoder", **SMALL)
        self.tokenizer, self.rel2id = tokenizer, load_rel2id()
        corpus = make_sample()
        for split, count in (("train", 4), ("dev", 2), ("test", 2)):
            (folder / f"{split}.json").write_text(json.dumps(corpus[split][:count]))
        self.documents = [corpus["train"][number : number + 2] for number in (0, 2)]
        if redocred:
            real = json.loads((redocred / "dev_revised.json").read_text())
            self.documents += [real[number : number + 2] for number in (0, 40)]
        train.main(arguments(folder, self.encoder, folder / "run", "--num_train_epochs", "1", "--loss_type", "atl"))
        self.run = folder / "run" / "seed_7"
        teacher = ["--load_path", str(self.run), "--data_file", str(folder / "train.json")]
        distill.main([*teacher, "--output_dir", str(folder / "scores"), "--precision", "fp32"])
        self.model = open_run(self.run, torch.device("cpu")).model
        self.config = read_json(self.run / "config.json")
        report.main(["--record", str(folder / "records"), str(self.run)])
        self.record = (folder / "records" / "run" / "seed_7.json").read_bytes()
        self.weights = {name: tensor.clone() for name, tensor in self.model.state_dict().items()}
        files = (*self.run.glob("*.*s*"), *(folder / "scores").iterdir())
        self.good = {path.name: path.read_bytes() for path in files}
        self.good["encoder/config.json"] = (self.run / "encoder/config.json").read_bytes()
        self.good["model.pt"] = saved(self.weights)
        self.train = load_documents(folder / "train.json")
        self.dev = load_documents(folder / "dev.json")
        self.gold = prepare_gold(self.dev, train_facts(self.train))
        self.features = read_docred(folder / "train.json", tokenizer, self.rel2id, cache_dir=folder / "cache")
        self.cached = pieces_path(folder / "cache", folder / "train.json", tokenizer, 1024)
        self.good["cache"] = self.cached.read_bytes()

    def write(self, name, data):
        """A file of the case."""
        (self.folder / name).write_bytes(data)
        return self.folder / name

    @contextlib.contextmanager
    def changed(self, name, number, structure, in_bytes, folder=None):
        """The run with one file changed, and good again behind."""
        path, good = (folder or self.run) / name, self.good[name]
        if name.endswith(".safetensors"):
            path.write_bytes(mutated_tensors(good, number, structure, in_bytes))
        else:
            path.write_bytes(mutated(json.loads(good), structure, in_bytes))
        try:
            yield path
        finally:
            path.write_bytes(good)


NEED_NO_RUNS = ("3", "4", "losses")
FIGURES_OF_RUNS = {name: draw for name, draw in report.FIGURES.items() if name not in NEED_NO_RUNS}


def fuzz_report(world, number, structure, in_bytes):
    names = ("config.json", "scores.json", "rel2id.json", "pair_scores_dev.safetensors", "config.json", "scores.json")
    name = names[number % len(names)]
    with world.changed(name, number, structure, in_bytes) as path:
        runs, unfinished = read_runs([str(world.run)])
        for table in (3, 4):
            cells = table_of_runs(table, runs, unfinished).rows[0].cells
        counts = read_json(world.run / "scores.json")["dev"]
        wrong = sum(counts[name] for name in ("FP", "FN_CRK", "FN_IRK"))
        total = wrong + counts["correct"]
        assert abs(cells["wrong"].mean - (100 * wrong / total if total else 0)) < 1e-9
        with mock.patch.dict(report.FIGURES, FIGURES_OF_RUNS, clear=True):
            report.write_html(str(world.folder / "report.html"), runs, unfinished, "dev")
        if name == "pair_scores_dev.safetensors":
            pairs, stored = read_pairs(runs[0], "dev"), plain_tensors(path.read_bytes())
            for field in ("document", "entities", "scores"):
                assert np.array_equal(getattr(pairs, field).numpy(), stored[field]), field
            assert all(0 <= document < len(world.dev) for document in pairs.document.tolist())


def fuzz_record(world, number, structure, in_bytes):
    path = world.write("seed_7.json", mutated(json.loads(world.record), structure, in_bytes))
    runs, unfinished = read_runs([str(path)])
    for table in (3, 4, "precision", "thresholds"):
        cells = table_of_runs(table, runs, unfinished).rows[0].cells
    assert cells["ro_p50"].mean == read_json(path)["thresholds"]["ro_p50"]
    count_by_document(runs[0]), dev_scores(runs[0])


def fuzz_finished(world, number, structure, in_bytes):
    name = ("config.json", "scores.json")[number % 2]
    with world.changed(name, number, structure, in_bytes):
        scores = finished_scores(world.run, world.config)
        if scores:
            summary = summarise({"name": "atl"}, [scores])
            train.print_summary(summary)
            assert summary["dev"]["f1"]["mean"] == read_json(world.run / "scores.json")["dev"]["f1"]


NUMPY = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "i1", "U8": "u1"}
NUMPY |= {"BOOL": "?", "U16": "<u2", "U32": "<u4", "U64": "<u8"}


def plain_tensors(data):
    """A safetensors file's tensors, read as its format says; BF16 as float32."""
    size = int.from_bytes(data[:8], "little")
    found = {}
    for name, about in json.loads(data[8 : 8 + size]).items():
        if name != "__metadata__":
            start, stop = (8 + size + offset for offset in about["data_offsets"])
            if about["dtype"] == "BF16":
                array = (np.frombuffer(data[start:stop], "<u2").astype("<u4") << 16).view("<f4")
            else:
                array = np.frombuffer(data[start:stop], NUMPY[about["dtype"]])
            found[name] = array.reshape(about["shape"])
    return found


def fuzz_weights(world, number, structure, in_bytes):
    before = {name: tensor.clone() for name, tensor in world.model.state_dict().items()}
    with world.changed("model.safetensors", number, structure, in_bytes) as path:
        try:
            load_weights(world.model, path)
        except UserError:
            assert all(torch.equal(before[name], tensor) for name, tensor in world.model.state_dict().items())
            raise
        stored = plain_tensors(path.read_bytes())
    for name, tensor in world.model.state_dict().items():
        assert tensor.isfinite().all() and np.array_equal(tensor.numpy(), stored[name].astype(np.float32)), name


class Harm:
    """A pickle that makes a file when it is run."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def saved(content, as_zip=True):
    """The bytes of a .pt file."""
    file = io.BytesIO()
    torch.save(content, file, _use_new_zipfile_serialization=as_zip)
    return file.getvalue()


def odd_contents(harmed):
    """What a .pt file may hold besides good weights."""
    return [
        Harm(harmed),
        {"checkpoint": Harm(harmed)},
        {"bilinear.bias": torch.zeros(97), "epoch": Harm(harmed)},
        {"bilinear.bias": torch.zeros(97).to_sparse()},
        {"bilinear.bias": torch.zeros(97, dtype=torch.complex64)},
        {"bilinear.bias": torch.empty(97, device="meta")},
        {"bilinear.bias": torch.quantize_per_tensor(torch.zeros(97), 0.1, 0, torch.qint8)},
        {"checkpoint": {"bilinear.bias": [1.0]}},
        {"checkpoint": None},
        torch.zeros(3),
        torch.nn.Linear(2, 2),
    ]


def fuzz_pt(world, number, structure, in_bytes):
    harmed = world.folder / "harmed"
    data = world.good["model.pt"]
    if number % 2:
        contents = odd_contents(harmed)
        chosen = contents[number // 2 % len(contents)]
        chosen = dict(world.model.state_dict()) | chosen if isinstance(chosen, dict) and number % 3 else chosen
        data = saved(chosen, bool(number % 4)) if number % 5 else pickle.dumps(chosen if number % 7 else Harm(harmed))
    for operation, place, *rest in in_bytes:
        data = edit_bytes(data, operation, place**4 if number % 4 < 2 else place, *rest)
    path = world.write("model.pt", data)
    try:
        with contextlib.suppress(UserError):
            assert all(isinstance(tensor, torch.Tensor) for tensor in read_weights(path).values())
        load_weights(world.model, path)
    finally:
        assert not harmed.exists()
    assert all(tensor.isfinite().all() for tensor in world.model.state_dict().values())


def fuzz_cache(world, number, structure, in_bytes):
    data = world.good["cache"]
    for step in in_bytes:
        data = edit_bytes(data, *step)
    world.cached.write_bytes(data)
    found = read_docred(world.folder / "train.json", world.tokenizer, world.rel2id, cache_dir=world.folder / "cache")
    for feature, good in zip(found, world.features, strict=True):
        assert {**feature, "labels": feature["labels"].tolist()} == {**good, "labels": good["labels"].tolist()}


def fuzz_open_run(world, number, structure, in_bytes):
    name = ("model.json", "config.json", "encoder/config.json", "model.json")[number % 4]
    in_bytes = in_bytes if "/" not in name else []
    with world.changed(name, number, structure, in_bytes):
        run = open_run(world.run, torch.device("cpu"))
        assert all(
            torch.equal(a, b) for a, b in zip(run.model.state_dict().values(), world.weights.values(), strict=True)
        )
        settings = vars(run.settings)
        predictor = predict.Predictor(run)
        predictor.predict(load_documents(world.folder / "dev.json")[:1])
        assert type(settings["num_labels"]) is int and settings["num_labels"] > 0


def fuzz_teacher(world, number, structure, in_bytes):
    name = ("teacher.json", "scores_00000.safetensors")[number % 2]
    with world.changed(name, number, structure, in_bytes, world.folder / "scores") as path:
        stored = distillation.WithTeacher(
            world.features, world.folder / "scores", world.folder / "train.json", world.rel2id, get_loss("atl")
        )
        found = torch.cat([stored[index]["teacher_scores"] for index in range(len(stored))])
        assert found.dtype == torch.float16 and found.shape == (sum(len(f["hts"]) for f in world.features), 97)
        if name != "teacher.json":
            assert np.array_equal(found.numpy(), plain_tensors(path.read_bytes())["scores"], equal_nan=True)


def training_state(value):
    """A small model, its optimizer after a step, and the scaler; every weight and every moment is `value`."""
    model = torch.nn.Linear(5, 3)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(2, 5)).sum().backward()
    optimizer.step()
    states = [tensor for state in optimizer.state.values() for tensor in state.values()]
    for tensor in (*model.state_dict().values(), *states):
        tensor.data.fill_(value)
    return model, optimizer, torch.amp.GradScaler("cpu", enabled=False)


def fuzz_resume(world, number, structure, in_bytes):
    """The newer of two checkpoints is changed: a training goes on from it where it is whole, else from the older."""
    folder = world.folder / "stopped"
    (folder / CHECKPOINTS).mkdir(parents=True, exist_ok=True)
    for step in (1, 2):
        save_checkpoint(folder, take_checkpoint(TrainingProgress(step=step, batch=step), *training_state(step)))
    newest = max((folder / CHECKPOINTS).glob("*.safetensors"))
    good = newest.read_bytes()
    newest.write_bytes(mutated_tensors(good, number, structure, in_bytes))
    unchanged = newest.read_bytes() == good
    model, optimizer, scaler = training_state(0)
    place = load_checkpoint(folder, model, optimizer, scaler)
    assert place.step == place.batch == 2 or (place.step == place.batch == 1 and not unchanged)
    states = [tensor for state in optimizer.state.values() for tensor in state.values()]
    assert all((tensor == place.step).all() for tensor in (*model.state_dict().values(), *states))


TARGETS = {  # in how many of so many cases, and what is done
    "documents": (20, fuzz_documents),
    "stream": (14, fuzz_stream),
    "forms": (14, fuzz_forms),
    "predictions": (18, fuzz_predictions),
    "gold": (6, fuzz_gold),
    "rel2id": (6, fuzz_rel2id),
    "report": (8, fuzz_report),
    "record": (6, fuzz_record),
    "finished": (8, fuzz_finished),
    "weights": (7, fuzz_weights),
    "pt": (5, fuzz_pt),
    "cache": (5, fuzz_cache),
    "open_run": (4, fuzz_open_run),
    "teacher": (4, fuzz_teacher),
    "resume": (4, fuzz_resume),
}
