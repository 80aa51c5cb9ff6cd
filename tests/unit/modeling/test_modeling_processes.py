"""Two processes have the loss, gradient and statistics of one process on the global batch, whatever is drawn.

With a head a domain, processes may train on different domains: no head waits in vain for its gradient.
"""

import pytest
import torch
from several_processes import assert_one_process_finds, run_processes
from torch.nn.parallel import DistributedDataParallel

from hf_tsrep import (
    CrossTimeNetConfig,
    CrossTimeNetForPreTraining,
    CrossTimeNetForTimeSeriesClassification,
    MUGConfig,
    MUGForPreTraining,
    ShapeNetConfig,
    ShapeNetForPreTraining,
    SimMTMConfig,
    SimMTMForPreTraining,
    TimeDRLConfig,
    TimeDRLForPreTraining,
    TimeMAEConfig,
    TimeMAEForPreTraining,
    TS2VecConfig,
    TS2VecForPreTraining,
    TSTConfig,
    TSTForPreTraining,
)

pytestmark = pytest.mark.slow

TS2VEC = {"hidden_size": 8, "embedding_size": 8, "num_hidden_layers": 3, "output_dropout": 0.0}
TIMEDRL = {"num_input_channels": 2, "hidden_size": 8, "patch_length": 4, "patch_stride": 4, "dropout": 0.3}
SIMMTM = {
    **{"num_input_channels": 2, "dropout": 0.3, "head_dropout": 0.2, "context_length": 20},
    **{"hidden_size": 8, "num_attention_heads": 2, "intermediate_size": 16},
}
SHAPENET = {"hidden_size": 6, "embedding_size": 8, "num_hidden_layers": 3, "reduced_size": 7}
TST = {
    **{"num_input_channels": 2, "dropout": 0.3, "attention_dropout": 0.3, "head_dropout": 0.2, "context_length": 20},
    **{"hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16},
    **{"mask_ratio": 0.4, "output_l2_weight": 0.1},
}
MUG = {
    **{"num_input_channels": 2, "hidden_size": 8, "segment_size": 8, "num_attention_heads": 2, "dropout": 0.2},
    **{"intermediate_size": 8, "num_fine_layers": 1, "coarse_hidden_size": 6, "num_coarse_layers": 2},
    **{"coarse_reduced_size": 7, "max_num_segments": 24, "retrieval_size": 6, "coarse_weight": 1.0},
}
SERIES_CASES = {
    "mug": (MUGForPreTraining, MUGConfig, MUG),
    "mug infonce": (MUGForPreTraining, MUGConfig, {**MUG, "retrieval_loss": "infonce", "fusion": "max"}),
    "shapenet": (ShapeNetForPreTraining, ShapeNetConfig, {**SHAPENET, "num_input_channels": 2, "num_clusters": 3}),
    "ts2vec gated": (TS2VecForPreTraining, TS2VecConfig, TS2VEC),
    "ts2vec official": (
        TS2VecForPreTraining,
        TS2VecConfig,
        {**TS2VEC, "gate_padding": False, "missing_values": "timestamp"},
    ),
    "ts2vec temporal unit": (TS2VecForPreTraining, TS2VecConfig, {**TS2VEC, "temporal_unit": 1, "alpha": 0.3}),
    "timedrl independent": (TimeDRLForPreTraining, TimeDRLConfig, {**TIMEDRL, "channel_mode": "independent"}),
    "timedrl augmented": (
        TimeDRLForPreTraining,
        TimeDRLConfig,
        {**TIMEDRL, "augmentation": "jitter", "prediction_target": "raw"},
    ),
    "timedrl resnet": (
        TimeDRLForPreTraining,
        TimeDRLConfig,
        {**TIMEDRL, "encoder": "resnet", "augmentation": "permutation"},
    ),
    "simmtm transformer": (SimMTMForPreTraining, SimMTMConfig, SIMMTM),
    "simmtm resnet": (
        SimMTMForPreTraining,
        SimMTMConfig,
        {**SIMMTM, "encoder_type": "resnet", "channel_mode": "joint", "reconstruct_masked_views": True},
    ),
    "tst batch": (TSTForPreTraining, TSTConfig, TST),
    "tst padding counts": (
        TSTForPreTraining,
        TSTConfig,
        {**TST, "context_length": 40, "normalize_over_padding": True},
    ),
    "tst long": (
        TSTForPreTraining,
        TSTConfig,
        {**TST, "input_projection": "convolution", "projection_stride": 2, "attention_window": 6},
    ),
    "simmtm masked modelling": (
        SimMTMForPreTraining,
        SimMTMConfig,
        {**SIMMTM, "use_constraint_loss": False, "use_aggregation": False},
    ),
}
BACKBONE = {
    **{"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16},
    **{"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0},
}
HAR = {"name": "har", "num_input_channels": 3, "patch_length": 4, "codebook_size": 12}
HEADED = [{**HAR, "num_labels": 3}, {**HAR, "name": "ecg", "num_labels": 2}]
MASK_RATIOS = {"crosstimenet masked": 0.3, "crosstimenet one masked": 0.0}
HEADS = "crosstimenet heads"
MOMENTUM = "timemae momentum"
TIMEMAE = {
    **{"num_input_channels": 2, "patch_length": 4, "hidden_size": 8, "num_hidden_layers": 2},
    **{"num_attention_heads": 2, "num_regressor_layers": 1, "num_codewords": 12},
}


def series_step(case, rank, num_processes):
    """Return the loss, gradients and buffers of one step on this process's rows."""
    model_class, config_class, fields = SERIES_CASES[case]
    torch.manual_seed(0)
    model = model_class(config_class(**fields)).train()
    values = torch.randn(6, 24, model.config.num_input_channels, generator=torch.Generator().manual_seed(1))
    values[0] = torch.nan
    values[1, :9] = torch.nan
    values[3, :, 1:] = torch.nan
    values[4, 5:12, -1] = torch.nan
    share = len(values) // num_processes
    torch.manual_seed(100 + rank)  # another state on every process: the first one's seed must serve all
    given = {"generator": torch.Generator().manual_seed(5 + rank)} if case.startswith("simmtm") else {}
    loss = model(values[rank * share : (rank + 1) * share], **given).loss
    loss.backward()
    return loss.detach(), gradients_of(model), buffers_of(model)


def token_step(case, rank, num_processes):
    """Loss with accuracy, gradients and buffers; of two processes one has two short rows, the other four long ones."""
    torch.manual_seed(0)
    config = CrossTimeNetConfig(domains=[HAR], backbone_config=BACKBONE, mask_ratio=MASK_RATIOS[case])
    model = CrossTimeNetForPreTraining(config).train()
    ids = torch.randint(4, 16, (6, 9), generator=torch.Generator().manual_seed(1))
    ids[:2, 5:] = 0
    part = ids if num_processes == 1 else (ids[:2, :5], ids[2:])[rank]
    torch.manual_seed(7 + rank)
    output = model(part)
    output.loss.backward()
    return torch.stack([output.loss.detach(), output.accuracy]), gradients_of(model), buffers_of(model)


def head_steps(rank, num_processes):
    """Losses, gradients and weights of two steps; in each the two processes are given different domains."""
    torch.manual_seed(0)
    config = CrossTimeNetConfig(domains=HEADED, backbone_config=BACKBONE)
    model = CrossTimeNetForTimeSeriesClassification(config).train()
    trained = model if num_processes == 1 else DistributedDataParallel(model, find_unused_parameters=False)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    losses = []
    for step_number in range(2):
        optimizer.zero_grad()
        mine = range(2) if num_processes == 1 else [(rank + step_number) % 2]
        for place in mine:
            ids = torch.randint(4, 16, (3, 5), generator=torch.Generator().manual_seed(place)) + 12 * place
            loss = trained(ids, domain=place, labels=torch.tensor([0, 1, 1])).loss / len(mine)
            loss.backward()
            losses.append(loss.detach())
        optimizer.step()
    weights = torch.cat([value.detach().flatten() for value in model.parameters()])
    return torch.stack(losses).sum(), gradients_of(model), weights


def momentum_steps(rank, num_processes):
    """Losses, last gradients and buffers (the momentum encoder) of three steps on this process's rows."""
    torch.manual_seed(0)
    model = TimeMAEForPreTraining(TimeMAEConfig(**TIMEMAE)).train()
    trained = model if num_processes == 1 else DistributedDataParallel(model, find_unused_parameters=False)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    values = torch.randn(3, 4, 24, 2, generator=torch.Generator().manual_seed(1))
    share = 4 // num_processes
    torch.manual_seed(100 + rank)
    losses = []
    for batch in values:
        optimizer.zero_grad()
        loss = trained(batch[rank * share : (rank + 1) * share]).loss
        loss.backward()
        optimizer.step()
        model.after_optimizer_step()
        losses.append(loss.detach())
    return torch.stack(losses), gradients_of(model), buffers_of(model)


def gradients_of(model):
    return torch.cat([value.grad.flatten() for value in model.parameters()])


def buffers_of(model):
    return torch.cat([torch.zeros(1), *(value.flatten().float() for value in model.buffers())])


def compute(case, rank, num_processes):
    """Take the step or steps of one case."""
    if case in (HEADS, MOMENTUM):
        return (head_steps if case == HEADS else momentum_steps)(rank, num_processes)
    return (series_step if case in SERIES_CASES else token_step)(case, rank, num_processes)


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """One start of two processes serves all cases: it takes longer than what they compute."""
    cases = [*SERIES_CASES, *MASK_RATIOS, HEADS, MOMENTUM]
    return run_processes(compute, cases, tmp_path_factory.mktemp("processes"))


@pytest.mark.parametrize("case", SERIES_CASES)
def test_two_processes_with_half_the_series_each_are_one(found, case):
    loss, gradients, _ = assert_one_process_finds(found, compute, case)
    assert loss.isfinite()
    assert gradients.abs().sum() > 0


@pytest.mark.parametrize("case", MASK_RATIOS)
def test_two_processes_with_unequal_numbers_of_tokens_are_one(found, case):
    losses, _, _ = assert_one_process_finds(found, compute, case)
    assert losses[0] > 1.0


def test_processes_train_heads_of_different_domains(found):
    loss, gradients, _ = assert_one_process_finds(found, compute, HEADS)
    assert loss > 1.0
    assert gradients.isfinite().all()


def test_processes_have_the_same_momentum_encoder_bit_for_bit(found):
    assert_one_process_finds(found, compute, MOMENTUM)
    first, second = (buffers for _, _, buffers in (one[MOMENTUM] for one in found))
    assert torch.equal(first, second)
