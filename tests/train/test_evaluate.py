import math

import pytest
import torch
from conftest import network_config

from elmnet import ELMNetwork
from elmnet.data.text import load_corpus
from elmnet.tasks.enwik8 import Enwik8, TextOptions
from elmnet.train.evaluate import evaluate


def test_scores_are_those_of_one_long_sequence(text_file):
    """Chunks with carried state and a shorter last chunk give exactly the whole sequence's mean."""
    task = Enwik8(TextOptions(chunk=37, streams=2), load_corpus(str(text_file)))
    config = network_config(inputs=task.inputs, outputs=task.outputs, token_scale=3.0, layer={"input_dropout": 0.5})
    network = ELMNetwork(config, seed=0).double().train()
    calls = []
    scores = evaluate(network, task, "test", whole=True, advance=lambda: calls.append(1))
    assert network.training
    assert len(calls) == task.count_batches("test", whole=True)
    network.eval()
    tokens = torch.from_numpy(task.parts["test"].astype("int64")).unsqueeze(0)
    logits, _ = network(tokens[:, :-1])
    nats = torch.nn.functional.cross_entropy(logits[0], tokens[0, 1:]).item()
    assert scores["nats"] == pytest.approx(nats, rel=1e-12)
    assert scores["bpc"] == pytest.approx(nats / math.log(2), rel=1e-12)
    assert scores["accuracy"] == (logits[0].argmax(-1) == tokens[0, 1:]).double().mean().item()
