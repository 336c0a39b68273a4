"""Some rows of a recipe's data as its host would train on them: loaded, templated, tokenised and masked by the host.

No weights are loaded, and nothing is fetched. What the host writes goes to a temporary folder.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

from otr_plugin.command.console import CANNOT_TELL, Failure
from otr_plugin.command.host_level import refusal_of, swift_arguments
from otr_plugin.command.recipes import RecipeHost
from otr_plugin.command.strangers import Finding
from otr_plugin.hosts.patching import replace, undo
from otr_plugin.hosts.recipe_text import RecipeText

MOST_ROWS = 256  # of each data set
MOST_NEW = 20  # tokens that are listed
IGNORED = -100


@dataclass
class Rows:
    """What a host made of the rows."""

    rows: list[tuple[list[int], list[int]]]  # token ids, labels
    tokenizer: Any
    model: str
    limit: int | None  # the greatest length
    read: int | None = None  # how many there were before the host dropped some
    options: dict[str, Any] = field(default_factory=dict)  # for from_pretrained


@dataclass
class Data:
    """Figures of the rows, for the report."""

    rows: int
    rows_dropped: int | None
    rows_at_the_limit: int
    limit: int | None
    tokens: int
    trained_tokens: int
    rows_without_trained_token: int
    new_labels: int  # trained labels that are tokens which the base model lacks
    new_tokens: list[dict[str, Any]]  # the most frequent: id, token, count

    @property
    def share(self) -> float:
        return self.trained_tokens / self.tokens if self.tokens else 0.0


def data_of(host: RecipeHost, recipe: dict[str, Any], path: Path) -> Data:
    """Raises Failure where the host, the model's tokenizer or the data are not here."""
    found: list[Data] = []
    with tempfile.TemporaryDirectory() as folder:
        refusal = refusal_of(
            host, path, recipe, lambda: found.append(_counted(READERS[host.name](recipe, path, folder)))
        )
    if refusal is not None:
        last = refusal.splitlines()[-1]
        raise Failure(f"{path}: {host.title} could not prepare the data here: {last}", CANNOT_TELL)
    return found[0]


def problems(data: Data) -> list[str]:
    if not data.rows:
        return [
            "the host dropped every row: are they longer than the greatest length, or of another form than its type?"
        ]
    if not data.trained_tokens:
        return [
            f"no token of {data.rows:,} rows is trained: does the chat template, or the mask, belong to these rows?"
        ]
    return []


def warnings(data: Data, settings: dict[str, Any] | None, text: RecipeText) -> list[Finding]:
    found = []
    if data.rows_without_trained_token and data.trained_tokens:
        what = f"{data.rows_without_trained_token:,} of {data.rows:,} rows have no trained token"
        found.append(Finding(text.line_of("datasets") or 1, "data", what, "they cost time and train nothing"))
    if data.new_labels and settings and settings["objective"] == "otr" and not settings["nll_weight"]:
        names = ", ".join(each["token"] for each in data.new_tokens[:3])
        what = f"{data.new_labels:,} trained tokens are new to the model: {names}"
        found.append(Finding(text.line_of("otr") or 1, "data", what, "no draw hits them: set nll_weight: 0.1"))
    return found


def _counted(rows: Rows) -> Data:
    trained = [[label for label in labels if label != IGNORED] for _, labels in rows.rows]
    new = _new_tokens(rows)
    counts = Counter(label for labels in trained for label in labels if label in new)
    names = rows.tokenizer.convert_ids_to_tokens([label for label, _ in counts.most_common(MOST_NEW)])
    return Data(
        rows=len(rows.rows),
        rows_dropped=None if rows.read is None else rows.read - len(rows.rows),
        rows_at_the_limit=sum(len(ids) >= rows.limit for ids, _ in rows.rows) if rows.limit else 0,
        limit=rows.limit,
        tokens=sum(len(ids) for ids, _ in rows.rows),
        trained_tokens=sum(map(len, trained)),
        rows_without_trained_token=sum(not labels for labels in trained),
        new_labels=sum(counts.values()),
        new_tokens=[
            {"id": label, "token": str(name), "count": count}
            for (label, count), name in zip(counts.most_common(MOST_NEW), names, strict=True)
        ],
    )


def _new_tokens(rows: Rows) -> set[int]:
    """The ids that the base model's tokenizer does not have, or for which its embedding has no row."""
    transformers = import_module("transformers")
    base = transformers.AutoTokenizer.from_pretrained(rows.model, **rows.options)
    config = transformers.AutoConfig.from_pretrained(rows.model, **rows.options).get_text_config()
    own, known = set(rows.tokenizer.get_vocab().values()), set(base.get_vocab().values())
    return (own - known) | {each for each in own if each >= config.vocab_size}


def _axolotl(recipe: dict[str, Any], path: Path, folder: str) -> Rows:
    sft = import_module("axolotl.utils.data.sft")
    original, read = sft.load_dataset_with_config, []

    def load_dataset_with_config(*args: Any, **options: Any) -> Any:
        dataset = original(*args, **options)
        if isinstance(dataset, dict):
            return type(dataset)({name: _first(each) for name, each in dataset.items()})
        first = _first(dataset)
        read.append(len(first))
        return first

    replace(sft, "load_dataset_with_config", load_dataset_with_config, "reads some rows only")
    os.environ["AXOLOTL_IS_PREPROCESS"] = "1"  # so that no steps are counted
    written = {name: str(Path(folder) / name) for name in ("output_dir", "dataset_prepared_path")}
    try:
        cfg = import_module("axolotl.cli.config").load_cfg(str(path), **written, dataset_num_proc=1)
        tokenizer = import_module("axolotl.loaders").load_tokenizer(cfg)
        train, evaluated, *_ = import_module("axolotl.utils.data").prepare_datasets(cfg, tokenizer)
        kept = [each for each in (train, None if cfg.test_datasets else evaluated) if each is not None]
        rows = [(list(row["input_ids"]), list(row["labels"])) for dataset in kept for row in dataset]
    finally:
        undo(sft.__name__)
        import_module("axolotl.integrations.base").PluginManager.get_instance().plugins.clear()
    options = {"trust_remote_code": bool(cfg.trust_remote_code), "revision": cfg.revision_of_model or "main"}
    total = sum(read) if read and not cfg.test_datasets else None
    return Rows(rows, tokenizer, cfg.base_model, cfg.sequence_len, total, options)


def _llamafactory(recipe: dict[str, Any], path: Path, folder: str) -> Rows:
    hparams, data, model = (import_module(f"llamafactory.{name}") for name in ("hparams", "data", "model"))
    own: dict[str, Any] = {
        "output_dir": folder,
        "overwrite_output_dir": True,
        "max_samples": _fewer(recipe.get("max_samples")),
    }
    own |= {"packing": False, "neat_packing": False, "tokenized_path": None, "preprocessing_num_workers": None}
    model_args, data_args, training_args, finetuning_args, _ = hparams.get_train_args(recipe | own)
    tokenizer_module = model.load_tokenizer(model_args)
    template = data.get_template_and_fix_tokenizer(tokenizer_module["tokenizer"], data_args)
    stage = finetuning_args.stage
    prepared = data.get_dataset(template, model_args, data_args, training_args, stage=stage, **tokenizer_module)
    train = prepared["train_dataset"]
    rows = [(list(row["input_ids"]), list(row.get("labels", row["input_ids"]))) for row in _some(train)]
    options = {"trust_remote_code": model_args.trust_remote_code, "revision": model_args.model_revision}
    name = model_args.model_name_or_path
    return Rows(rows, tokenizer_module["tokenizer"], name, data_args.cutoff_len, options=options)


class _PreparedError(Exception):
    """Ends `trl sft` when its trainer has the data; not an error."""


def _trl(recipe: dict[str, Any], path: Path, folder: str) -> Rows:
    trl, script, transformers = (import_module(name) for name in ("trl", "trl.scripts.sft", "transformers"))
    parsed = script.make_parser().parse_args_and_config(["--config", str(path)], fail_with_unknown_args=False)
    arguments, model_args = parsed[1], parsed[2]
    name = model_args.model_name_or_path
    options = {"trust_remote_code": _trusts(arguments, model_args), "revision": model_args.model_revision or "main"}
    made: list[Any] = []
    trainer_class = trl.SFTTrainer

    def prepare(*, train_dataset: Any, args: Any, **_: Any) -> Any:
        """Make the real trainer, with a tiny model in place of the recipe's, whose weights are not needed."""
        tokenizer = transformers.AutoTokenizer.from_pretrained(name, **options)
        config = transformers.LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=8,
            intermediate_size=8,
            num_hidden_layers=1,
            num_attention_heads=1,
            num_key_value_heads=1,
            max_position_embeddings=1 << 20,
        )
        changes: dict[str, Any] = {
            "model_init_kwargs": None,
            "packing": False,
            "padding_free": False,
            "eval_strategy": "no",
        }
        changes |= {"output_dir": folder, "per_device_train_batch_size": 1, "dataset_num_proc": None, "otr": None}
        for key, value in (changes | {"report_to": [], "dataloader_num_workers": 0, "push_to_hub": False}).items():
            if hasattr(args, key):
                setattr(args, key, value)
        model = transformers.LlamaForCausalLM(config)
        made.append(trainer_class(model, args, train_dataset=_first(train_dataset), processing_class=tokenizer))
        raise _PreparedError

    replace(trl, "SFTTrainer", prepare, "prepares the data without the recipe's model")
    try:
        with contextlib.suppress(_PreparedError):
            script.main(*parsed)
    finally:
        undo(trl.__name__)
    (trainer,) = made
    loader = trainer.get_train_dataloader() if len(trainer.train_dataset) else []
    rows = [(ids, labels) for batch in loader for ids, labels in _of_batch(batch)]
    return Rows(rows, trainer.processing_class, name, arguments.max_length, options=options)


def _trusts(arguments: Any, model_args: Any) -> bool:
    """TRL has moved the argument from one class to the other."""
    return bool(getattr(arguments, "trust_remote_code", False) or getattr(model_args, "trust_remote_code", False))


def _swift(recipe: dict[str, Any], path: Path, folder: str) -> Rows:
    args = swift_arguments(path)
    args.dataset = [name if "#" in name else f"{name}#{MOST_ROWS}" for name in args.dataset]
    model, processor = args.get_model_processor(load_model=False)
    assert model is None
    template = args.get_template(processor)
    template.set_mode("train")
    train, _ = args.load_dataset()
    too_long = import_module("swift.template").MaxLengthError
    rows, read = [], 0
    for row in _some(train):
        read += 1
        with contextlib.suppress(too_long):  # swift leaves such rows out
            encoded = template.encode(row)
            rows.append((list(encoded["input_ids"]), list(encoded["labels"])))
    return Rows(rows, template.tokenizer, args.model_dir, template.max_length, read)


def _of_batch(batch: Any) -> Iterator[tuple[list[int], list[int]]]:
    ids, labels = batch["input_ids"].tolist(), batch["labels"].tolist()
    masks = batch["attention_mask"].tolist() if "attention_mask" in batch else [[1] * len(each) for each in ids]
    for own_ids, own_labels, mask in zip(ids, labels, masks, strict=True):
        kept = [i for i, is_token in enumerate(mask) if is_token]
        yield [own_ids[i] for i in kept], [own_labels[i] for i in kept]


def _first(dataset: Any) -> Any:
    """The first rows of a data set of the library datasets."""
    if hasattr(dataset, "select"):
        return dataset.select(range(min(MOST_ROWS, len(dataset))))
    return dataset.take(MOST_ROWS)


def _some(dataset: Iterable[Any]) -> Iterator[Any]:
    for _, row in zip(range(MOST_ROWS), dataset, strict=False):
        yield row


def _fewer(samples: Any) -> int:
    return min(samples, MOST_ROWS) if isinstance(samples, int) and samples > 0 else MOST_ROWS


READERS: dict[str, Callable[[dict[str, Any], Path, str], Rows]] = {
    "axolotl": _axolotl,
    "llamafactory": _llamafactory,
    "trl": _trl,
    "swift": _swift,
}
