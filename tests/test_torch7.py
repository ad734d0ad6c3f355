"""Our regimes, networks and measures against what the authors' own Torch7 program computed.

`tests/golden` goes with the project; the full set, with photographs, lies in the shared folder and is used where that exists
(environment variable CROSSVIEW_SHARED, default ../shared)."""
import json
import os
import random
import struct
from copy import deepcopy
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from crossview_nb.data import CrossViewBatch
from crossview_nb.discriminators import PatchDiscriminator, PixelDiscriminator
from crossview_nb.fork import XFork
from crossview_nb.generators import EncoderDecoder, ForkGenerator
from crossview_nb.pix2pix import XPix2pix
from crossview_nb.regime import RegimeConfig
from crossview_nb.seq import XSeq
from crossview_nb.torch7 import (Torch7Error, Torch7Object, as_program, convert, load_torch7_arrays, read_network, read_torch7,
                                 tensor_to_array, to_rgb, torch7_arrays, torch7_layers)
from crossview_nb.training import REGIMES, find_checkpoint, load_networks, read_config

HERE = Path(__file__).parent/'golden'
SHARED = Path(os.environ.get('CROSSVIEW_SHARED', Path(__file__).parents[2]/'shared'))/'golden'
needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason=f'{SHARED} is not here: set CROSSVIEW_SHARED')
FOLDERS = [pytest.param(HERE, id='synthetic'), pytest.param(SHARED, id='photographs', marks=needs_shared)]
LOSSES = dict(pix2pix=dict(D='errD', G='errG', L1='errL1'),
              fork=dict(D='errD', G='errG', L1='errL1', L1_seg='errL1_seg'),
              seq=dict(D1='errD1', D2='errD2', G1='errG1', G2='errG2', L1_1='errL11', L1_2='errL12'))


def scaled(u8):
    "As the program scales bytes: in float32, by its reciprocal of 255"
    return (torch.as_tensor(u8).float()*torch.tensor(1/255, dtype=torch.float32)*2 - 1).double()


def blocks(u8, n): return u8.repeat(n, axis=2).repeat(n, axis=3)


def batch_of(folder):
    if folder == HERE: x = scaled(blocks(np.load(folder/'inputs_u8.npz')['batch256_blocks8'], 8))
    else: x = scaled(np.load(folder/'batch256_u8.npz')['batch_bgr_u8'])
    return CrossViewBatch(source=x[:, 3:6], target=x[:, 0:3], target_seg=x[:, 6:9], names=['a', 'b'])


def off(found, golden):
    "Largest difference, relative to the golden tensor's largest magnitude"
    found, golden = np.asarray(found, np.float64), np.asarray(golden, np.float64)
    assert found.shape == golden.shape
    return np.abs(found - golden).max()/np.abs(golden).max() if golden.any() else np.abs(found).max()


def gradients(network):
    return {f'{key}.{field}': getattr(layer, field).grad.numpy().copy()
            for key, layer in torch7_layers(network).items() for field in ('weight', 'bias')}


@lru_cache(None)
def five_steps(name, folder):
    "Five iterations in parity mode, recorded the way the golden run was"
    regime = REGIMES[name](RegimeConfig(ngf=2, ndf=2), program=as_program()).double()
    golden = {key: dict(np.load(folder/f'{name}_{key}.npz')) for key in regime.networks}
    for key, network in regime.networks.items():
        load_torch7_arrays(network, {k[5:]: v for k, v in golden[key].items() if k.startswith('init/')})
    seen, arrays, losses = {key: [] for key in regime.networks}, {key: {} for key in regime.networks}, []
    def keep(key, phase, found): arrays[key].update({f'{phase}/{k}': v for k, v in found.items()})
    for key, network in regime.networks.items(): keep(key, 'init', torch7_arrays(network))
    hooks = [network.register_forward_hook(lambda module, inputs, output, key=key: seen[key].append(output))
             for key, network in regime.networks.items()]
    batch = batch_of(folder)
    for step in range(1, 6):
        state = regime.generate(batch)
        losses.append({})
        for key in regime.updates:
            losses[-1].update({k: v.item() for k, v in regime.update(key, state).items()})
            if step == 1: keep(key, 'grad1', gradients(regime.networks[key]))
            keep(key, f'step{step}', torch7_arrays(regime.networks[key]))
        for key in regime.networks: keep(key, f'end{step}', torch7_arrays(regime.networks[key]))
        for hook in hooks: hook.remove()
    return arrays, losses, seen, golden


@pytest.mark.parametrize('folder', FOLDERS)
@pytest.mark.parametrize('name', REGIMES)
def test_losses(name, folder):
    losses = five_steps(name, folder)[1]
    golden = json.loads((folder/f'{name}_errors.json').read_text())['errors_double']
    assert len(losses) == len(golden) == 5
    for step, (found, expected) in enumerate(zip(losses, golden), 1):
        assert set(LOSSES[name].values()) == expected.keys() - {'step'}
        for ours, theirs in LOSSES[name].items():
            assert abs(found[ours] - expected[theirs]) <= 1e-10*abs(expected[theirs]), (step, ours)


@pytest.mark.parametrize('folder', FOLDERS)
@pytest.mark.parametrize('name', REGIMES)
def test_weights_and_gradients(name, folder):
    "init, grad1, step1, step5, end1, end5 of every network; nothing that the README of the golden data does not exempt is left out"
    arrays, _, _, golden = five_steps(name, folder)
    for network, tensors in golden.items():
        layers = list({key.split('/')[1].split('.')[0]: None for key in tensors})
        before_norm = {a for a, b in zip(layers, layers[1:]) if 'Convolution' in a and 'BatchNorm' in b}
        compared = 0
        for key, expected in tensors.items():
            phase, rest = key.split('/')
            layer, field = rest.split('.')
            found = arrays[network][key]
            if phase == 'init': assert (found == expected).all(), key
            elif layer in before_norm and field == 'bias':
                if phase.startswith('end'): assert not found.any() and not expected.any(), key
            else:
                if phase.startswith('grad'): tolerance = 1e-6 if expected.dtype == np.float32 else 1e-9
                elif network[0] == 'D': tolerance = 1e-9
                else: tolerance = 5e-6 if field == 'running_mean' else 2e-7
                assert off(found, expected) <= tolerance, (network, key, off(found, expected))
            compared += 1
        assert compared == len(tensors) > 100 - 50*(network[0] == 'D')


@pytest.mark.parametrize('folder', FOLDERS)
@pytest.mark.parametrize('name', REGIMES)
def test_first_forwards(name, folder):
    "Every network output of iteration 1, in call order"
    seen = five_steps(name, folder)[2]
    golden = np.load(folder/f'{name}_forward1.npz')
    calls = {key: sum(k.startswith(f'{key}_fwd') and 'meanstd' not in k and 'out2' not in k for k in golden) for key in seen}
    assert calls == {key: len(outputs) for key, outputs in seen.items()}
    for key in golden:
        network, call, *rest = key.split('_')
        output = seen[network][int(call[3:]) - 1]
        if rest and rest[0].startswith('out'): output = output[int(rest.pop(0)[3:]) - 1]
        output = output.detach().sigmoid() if network[0] == 'D' else output.detach()
        if rest and rest[0].startswith('sub'): output = output[:, :, ::int(rest[0][3:]), ::int(rest[0][3:])]
        if rest == ['meanstd']: output = torch.stack([output.mean(), output.std(correction=0)])
        assert off(output, golden[key]) <= 1e-9, key


def as_run(network, mode):
    "Training or evaluation mode, dropout off in both, as the golden forwards were made"
    network.train(mode == 'train')
    for layer in network.modules():
        if isinstance(layer, nn.Dropout): layer.eval()
    return network


def bgr(images): return images.flip(1)


def forwards_256(load):
    "Name of a golden forward -> what the loaded networks make of the batch; `load(stem)` gives a network, colours are BGR here"
    a = batch_of(SHARED).source
    outputs = {}
    with torch.no_grad():
        for mode in ('train', 'eval'):
            def run(stem, x): return as_run(load(stem), mode)(x)
            image = run('pix2pix_net_G', a)
            outputs[f'{mode}/pix2pix_fakeB_sub4'] = image
            outputs[f'{mode}/pix2pix_D_A_fakeB'] = run('pix2pix_net_D', torch.cat([a, image], 1)).sigmoid()
            image, seg = run('fork_net_G', a)
            outputs[f'{mode}/fork_fakeB_sub4'], outputs[f'{mode}/fork_fakeBs_sub4'] = image, seg
            outputs[f'{mode}/fork_D_A_fakeB'] = run('fork_net_D', torch.cat([a, image], 1)).sigmoid()
            image = run('seq_net_G', a)
            seg = run('seq_net_G2', image)
            outputs[f'{mode}/seq_fakeB_sub4'], outputs[f'{mode}/seq_fakeBs_sub4'] = image, seg
            outputs[f'{mode}/seq_D1_A_fakeB'] = run('seq_net_D', torch.cat([a, image], 1)).sigmoid()
            outputs[f'{mode}/seq_D2_fakeB_fakeBs'] = run('seq_net_D2', torch.cat([image, seg], 1)).sigmoid()
            # a batch of one makes the program use running statistics in both modes
            outputs[f'{mode}/pix2pix_fakeB_batch1_sub4'] = as_run(load('pix2pix_net_G'), 'eval')(a[:1])
    return {key: x[:, :, ::4, ::4] if key.endswith('_sub4') else x for key, x in outputs.items()}


def forwards_64(load, a):
    outputs = {}
    with torch.no_grad():
        for mode in ('train', 'eval'):
            def run(stem, x): return as_run(load(stem), mode)(x)
            outputs[f'{mode}/encdec64_fakeB'] = image = run('encdec64_G', a)
            outputs[f'{mode}/fork64_fakeB'], outputs[f'{mode}/fork64_fakeBs'] = run('fork64_G', a)
            outputs[f'{mode}/basic64_D_A_fakeB'] = run('basic64_D', torch.cat([a, image], 1)).sigmoid()
            outputs[f'{mode}/encdec64_fakeB_batch1'] = as_run(load('encdec64_G'), 'eval')(a[:1])
    return outputs


class InBGR(nn.Module):
    "A network that works in RGB, wrapped so that it takes and gives BGR"
    def __init__(self, network):
        super().__init__()
        self.network = network
    def forward(self, x):
        output = self.network(torch.cat([bgr(part) for part in x.split(3, 1)], 1))
        if isinstance(output, tuple): return tuple(map(bgr, output))
        return output if output.shape[1] == 1 else bgr(output)


def check_forwards(outputs, file, float64=1e-9):
    golden = np.load(file)
    assert outputs.keys() == set(golden) - {'A'}
    for key in outputs:
        assert off(outputs[key], golden[key]) <= (1e-6 if golden[key].dtype == np.float32 else float64), key


def source_64(folder):
    if folder == HERE: return scaled(blocks(np.load(folder/'inputs_u8.npz')['batch64_blocks4'], 4))[:, 3:6]
    return torch.as_tensor(np.load(folder/'fwd64.npz')['A']).double()


@pytest.mark.parametrize('folder', FOLDERS)
@pytest.mark.parametrize('colours', ['as they are', 'RGB'])
def test_checkpoints_at_64(folder, colours):
    files = folder if folder == HERE else folder/'t7'
    def load(stem):
        if colours == 'RGB': return InBGR(read_network(files/f'{stem}.t7', dtype=torch.float64))
        return read_network(files/f'{stem}.t7', bias='all', rgb=False, dtype=torch.float64)
    check_forwards(forwards_64(load, source_64(folder)), folder/'fwd64.npz')


@needs_shared
@pytest.mark.parametrize('colours', ['as they are', 'RGB', 'cudnn'])
def test_checkpoints_at_256(colours):
    def load(stem):
        if colours == 'RGB': return InBGR(read_network(SHARED/f't7/{stem}.t7', dtype=torch.float64))
        if colours == 'cudnn' and stem == 'fork_net_G': stem = 'fork_G_cudnn_cuda'
        return read_network(SHARED/f't7/{stem}.t7', bias='all', rgb=False, dtype=torch.float64)
    check_forwards(forwards_256(load), SHARED/'ckpt_forward.npz')


@needs_shared
def test_converted_checkpoints_at_256(tmp_path):
    "What `convert` writes, read back through the trainer's own functions"
    roles = dict(pix2pix=dict(G='G', D='D'), fork=dict(G='G', D='D'), seq=dict(G='G1', G2='G2', D='D1', D2='D2'))
    networks = {}
    for name, parts in roles.items():
        convert([SHARED/f't7/{name}_net_{part}.t7' for part in parts], name, tmp_path)
        checkpoint = find_checkpoint(tmp_path/name)
        config, _ = read_config(checkpoint)
        assert (config.regime, config.networks.size, config.networks.bias, config.bgr) == (name, 256, 'ends', False)
        regime = REGIMES[name](config.networks)
        load_networks(regime, checkpoint)
        for part, ours in parts.items(): networks[f'{name}_net_{part}'] = InBGR(regime.networks[ours].double())
    # convert stores float32, and folding a bias into a running mean rounds once
    check_forwards(forwards_256(lambda stem: deepcopy(networks[stem])), SHARED/'ckpt_forward.npz', float64=1e-6)


@pytest.mark.parametrize('kind', ['encdec64', 'fork64'])
def test_converted_generators_run_like_any_other(tmp_path, kind):
    results = pytest.importorskip('crossview_nb.results')
    folder = convert(HERE/f'{kind}_G.t7', 'run', tmp_path)
    image, segmentation = results.load_generator(folder)(bgr(source_64(HERE)).float())
    golden = np.load(HERE/'fwd64.npz')
    assert off(bgr(image.detach()), golden[f'eval/{kind}_fakeB']) <= 1e-6
    if kind == 'fork64': assert off(bgr(segmentation.detach()), golden['eval/fork64_fakeBs']) <= 1e-6
    else: assert segmentation is None


def test_real_biases_survive_conversion():
    "Golden biases are tiny: large random ones, and every output in both modes still agrees"
    for build in (EncoderDecoder, ForkGenerator, PatchDiscriminator, PixelDiscriminator):
        torch.manual_seed(1)
        generator = issubclass(build, EncoderDecoder)
        options = dict(size=64, ngf=3, dropout=False) if generator else dict(ndf=4) if build == PixelDiscriminator else dict(size=64, ndf=4)
        full, ends = build(**options, bias='all').double(), build(**options, bias='ends').double()
        for layer in torch7_layers(full).values():
            layer.bias.data.normal_()
            if isinstance(layer, nn.BatchNorm2d): layer.running_mean.normal_(), layer.running_var.uniform_(0.5, 2)
        load_torch7_arrays(ends, torch7_arrays(full))
        x = torch.randn(3, 3 if generator else 6, 64, 64, dtype=torch.float64)
        for mode in (False, True):
            ours, theirs = ends.train(mode)(x), full.train(mode)(x)
            for a, b in zip(ours, theirs): assert torch.allclose(a, b, rtol=0, atol=1e-12)
            ours = InBGR(to_rgb(ends)).train(mode)(x)
            for a, b in zip(ours, theirs): assert torch.allclose(a, b, rtol=0, atol=1e-12)
            to_rgb(ends)


@pytest.mark.parametrize('size', [32, 64, 128, 256, 512])
def test_arrays_and_back(size):
    for network in (EncoderDecoder(size, 3), ForkGenerator(size, 2, dropout=False, bias='all'), PatchDiscriminator(size, 4, 2, 3),
                    PixelDiscriminator(5, bias='ends')):
        arrays = torch7_arrays(network)
        other = {key: array + 1 if 'var' in key or 'norm' in key.lower() else array for key, array in arrays.items()}
        back = torch7_arrays(load_torch7_arrays(network, other))
        assert list(back) == list(other) and all((back[key] == other[key]).all() for key in other)


@pytest.mark.parametrize('name,networks', dict(pix2pix=['G', 'D'], fork=['G', 'D'], seq=['G1', 'G2', 'D1', 'D2']).items())
def test_keys_are_those_of_the_module_list(name, networks):
    regime = REGIMES[name](RegimeConfig(ngf=2, ndf=2))
    for key in networks:
        lines = [line.split('\t') for line in (HERE/f'{name}_{key}_modules.txt').read_text().splitlines()[1:]]
        listed = [f'{place}_{label}_{kind[3:]}' for place, label, kind, _ in lines if 'Convolution' in kind or 'Normalization' in kind]
        assert list(torch7_layers(regime.networks[key])) == listed


def test_arrays_that_do_not_fit():
    network = PatchDiscriminator(64, 2)
    arrays = torch7_arrays(network)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    with pytest.raises(ValueError, match='1 are missing'): load_torch7_arrays(network, dict(list(arrays.items())[1:]))
    with pytest.raises(ValueError, match='no place'): load_torch7_arrays(network, {**arrays, '99_x.weight': np.zeros(1)})
    with pytest.raises(ValueError, match='has shape'): load_torch7_arrays(network, {**arrays, '02_c1_SpatialConvolution.bias': np.zeros(3)})
    with pytest.raises(ValueError, match='bias="ends"'): load_torch7_arrays(network, {**arrays, '02_c1_SpatialConvolution.bias': np.ones(2)})
    with pytest.raises(ValueError, match='do not fit'): load_torch7_arrays(EncoderDecoder(64, 2), arrays)
    assert all((value == before[key]).all() for key, value in network.state_dict().items())


# ---- files that are not what they should be ----

def written(thing):
    "Torch7's binary format from the tree that `read_torch7` gives; only what these tests need"
    out, numbers = [], {}
    def put(code, *values): out.append(struct.pack(f'<{len(values)}{code}', *values))
    def text(string):
        put('i', len(string))
        out.append(string.encode('latin-1'))
    def table(fields):
        put('i', len(fields))
        for pair in fields.items(): any(write(part) for part in pair)
    def write(thing):
        if thing is None: put('i', 0)
        elif isinstance(thing, bool): put('i', 5, thing)
        elif isinstance(thing, (int, float)):
            put('i', 1)
            put('d', thing)
        elif isinstance(thing, str):
            put('i', 2)
            text(thing)
        else: write_object(thing)
    def write_object(thing):
        known = id(thing) in numbers
        put('i', 3 if thing.name == 'table' else 8 if thing.name == 'function' else 4, numbers.setdefault(id(thing), len(numbers) + 1))
        if known: return
        if thing.name == 'table': return table(thing.fields)
        if thing.name == 'function':
            text('byte code')
            return write(None)
        text('V 1')
        text(thing.name)
        if thing.name.endswith('Storage'):
            put('q', len(thing.fields['numbers']))
            out.append(thing.fields['numbers'].tobytes())
        elif thing.name.endswith('Tensor'):
            size, stride = thing.fields['size'], thing.fields['stride']
            put('i', len(size))
            put('q', *size, *stride, thing.fields['offset'] + 1)
            write(thing.fields['storage'])
        else:
            inner = Torch7Object('table')
            inner.fields = thing.fields
            keep.append(inner)
            write_object(inner)
    keep = []
    write(thing)
    return b''.join(out)


def things(root):
    "Every table and object in a tree"
    met, todo = {}, [root]
    while todo:
        thing = todo.pop()
        if not isinstance(thing, Torch7Object) or id(thing) in met: continue
        met[id(thing)] = thing
        todo += [*reversed(thing.fields.values()), *thing.fields.keys()]
    return list(met.values())


def edited(tmp_path, change, stem='basic64_D'):
    "A golden file, changed as a tree and written again"
    root = read_torch7(HERE/f'{stem}.t7')
    changed = change(root, things(root))
    root = root if changed is None else changed
    (tmp_path/'edited.t7').write_bytes(written(root))
    return tmp_path/'edited.t7'


def renamed(old, new):
    def change(root, all_things):
        for thing in all_things: thing.name = thing.name.replace(old, new)
    return change


def first(all_things, name): return next(thing for thing in all_things if thing.name.endswith(name))


@pytest.mark.parametrize('stem', ['basic64_D', 'encdec64_G', 'fork64_G'])
@pytest.mark.parametrize('kind', ['Double', 'Cuda', 'CudaDouble', 'Half', 'cudnn', 'function', 'strided'])
def test_other_ways_to_write_the_same(tmp_path, stem, kind):
    dtype = dict(Double='<f8', CudaDouble='<f8', Half='<f2').get(kind, '<f4')
    def change(root, all_things):
        for thing in all_things:
            if kind == 'cudnn': thing.name = thing.name.replace('nn.Spatial', 'cudnn.Spatial').replace('nn.ReLU', 'cudnn.ReLU').replace('nn.Tanh', 'cudnn.Tanh')
            elif kind == 'function' and 'weight' in thing.fields: thing.fields['hook'] = Torch7Object('function')
            elif kind == 'strided' and id(thing) in everything and len(thing.fields['size']) == 4:
                storage = thing.fields['storage'] = Torch7Object('torch.FloatStorage')
                shape = thing.fields['size']
                old = np.frombuffer(everything[id(thing)].tobytes(), '<f4').reshape(shape)
                storage.fields['numbers'] = np.concatenate([np.zeros(7, '<f4'), old.transpose(1, 0, 2, 3).ravel()])
                o, i, h, w = shape
                thing.fields.update(offset=7, stride=[h*w, o*h*w, w, 1])
            elif thing.name.endswith('Storage') and kind not in ('cudnn', 'function', 'strided'):
                with np.errstate(all='ignore'):  # scratch tensors hold whatever was in memory
                    thing.fields['numbers'] = thing.fields['numbers'].astype(dtype)
        if dtype != '<f4' or kind == 'Cuda': renamed('Float', kind)(root, all_things)
    everything = {}
    def remember(root, all_things):
        for thing in all_things:
            weight = thing.fields.get('weight')
            if weight is not None: everything[id(weight)] = tensor_to_array(weight, 'x')
        change(root, all_things)
    found = torch7_arrays(read_network(edited(tmp_path, remember, stem), 'all'))
    expected = torch7_arrays(read_network(HERE/f'{stem}.t7', 'all'))
    for key in expected: assert off(found[key], expected[key]) <= (1e-3 if kind == 'Half' else 0), key


def set_field(name, field, value):
    def change(root, all_things):
        layers = root.fields['modules'].fields
        next(layers[at] for at in sorted(layers) if layers[at].name.endswith(name)).fields[field] = value
    return change


def set_size(*size):
    def change(root, all_things):
        layers = root.fields['modules'].fields
        layers[1].fields['weight'].fields.update(size=list(size), stride=[1]*len(size))
    return change


def poison(name, field, value):
    def change(root, all_things): 
        storage = first(all_things, name).fields[field].fields['storage']
        storage.fields['numbers'] = np.where(np.arange(len(storage.fields['numbers'])) == 1, value, storage.fields['numbers']).astype('<f4')
    return change


def another_root(thing): return lambda root, all_things: thing


def six_channels_out(root, all_things):
    last = [thing for thing in all_things if thing.name == 'nn.SpatialFullConvolution' and thing.fields['nOutputPlane'] == 3][0]
    last.fields['nOutputPlane'] = 6


def ring(root, all_things):
    last = root.fields['outnode'].fields['data'].fields['mapindex'].fields[1]
    last.fields['mapindex'].fields[1].fields['mapindex'].fields[1] = last


@pytest.mark.parametrize('stem,change,message', [
    ('basic64_D', renamed('nn.SpatialConvolution', 'nn.SpatialDilatedConvolution'), "instead of a convolution"),
    ('basic64_D', renamed('nn.LeakyReLU', 'nn.ELU'), 'layer 2 is a nn.ELU; LeakyReLU is expected'),
    ('basic64_D', renamed('nn.Sigmoid', 'nn.Identity'), 'ends in Identity'),
    ('basic64_D', renamed('nn.Sequential', 'nn.DataParallelTable'), 'holds a nn.DataParallelTable'),
    ('basic64_D', renamed('FloatStorage', 'QuantumStorage'), 'QuantumStorage, which no network'),
    ('basic64_D', renamed('FloatStorage', 'HalfStorage'), 'goes on|damaged|type'),
    ('basic64_D', set_field('.SpatialConvolution', 'dW', 1), 'has dW 1'),
    ('basic64_D', set_field('.SpatialConvolution', 'padW', None), 'has padW None'),
    ('basic64_D', set_field('.LeakyReLU', 'negval', .1), 'has negval 0.1'),
    ('basic64_D', set_field('Normalization', 'eps', 1e-3), 'has eps 0.001'),
    ('basic64_D', set_field('Normalization', 'running_var', None), 'running_var is None'),
    ('basic64_D', set_field('Normalization', 'weight', 'text'), "weight is 'text'"),
    ('basic64_D', set_size(2, 5, 4, 4), 'from 5 channels'),
    ('basic64_D', set_size(2, 96), 'instead of four dimensions'),
    ('basic64_D', set_size(-2, 6, 4, 4), 'claims shape'),
    ('basic64_D', set_size(2**40, 6, 4, 4), 'claims shape'),
    ('basic64_D', poison('.SpatialConvolution', 'weight', np.nan), 'not finite'),
    ('basic64_D', poison('Normalization', 'running_var', -1), 'negative'),
    ('basic64_D', another_root(3), 'holds a int'),
    ('basic64_D', another_root(Torch7Object('table')), 'holds a table'),
    ('basic64_D', another_root(Torch7Object('nn.Sequential')), 'lacks a part'),
    ('encdec64_G', ring, 'ring'),
    ('encdec64_G', six_channels_out, 'nOutputPlane 6'),
    ('encdec64_G', renamed('nn.Tanh', 'nn.Sigmoid'), 'layers; 16 are expected of a PatchDiscriminator'),
    ('encdec64_G', renamed('nn.Tanh', 'nn.HardTanh'), 'ends in HardTanh'),
])
def test_foreign_files(tmp_path, stem, change, message):
    with pytest.raises(Torch7Error, match=message): read_network(edited(tmp_path, change, stem))


@pytest.mark.parametrize('data,message', [
    (b'', 'is empty'), (struct.pack('<i', 0), 'holds a NoneType'), (b'\x01', 'truncated'), (b'PK\x03\x04 a zip file', 'not a binary Torch7 file'), (b'4\n1\n3\nV 1\n', 'not a binary Torch7 file'),
    (struct.pack('<iii', 3, 1, 2**31 - 1), 'does not fit'), (struct.pack('<iii', 3, 1, -1), 'does not fit'),
    (struct.pack('<ii', 2, 2**31 - 1), 'announced'), (struct.pack('<ii', 2, -5), 'announced'),
    (struct.pack('<iii', 4, 1, 3) + b'V 1' + struct.pack('<i', 18) + b'torch.FloatStorage' + struct.pack('<q', 2**62), 'announced'),
    (struct.pack('<iii', 4, 1, 3) + b'V 1' + struct.pack('<i', 17) + b'torch.FloatTensor' + struct.pack('<i', 2**30), 'dimensions'),
    (struct.pack('<iii', 4, 1, 3) + b'V 1' + struct.pack('<i', 9) + b'os.system' + struct.pack('<i', 0), 'without its table'),
    (struct.pack('<iii', 4, 1, 3) + b'V 1' + struct.pack('<i', 15) + b'torch.Generator' + struct.pack('<i', 0), 'which no network contains'),
    (struct.pack('<iid', 0, 1, 1.), 'goes on'),
])
def test_malformed_files(tmp_path, data, message):
    (tmp_path/'x.t7').write_bytes(data)
    with pytest.raises(Torch7Error, match=message): read_network(tmp_path/'x.t7')


def test_deep_nesting_and_missing_file(tmp_path):
    deep = b''.join(struct.pack('<iiiid', 3, n + 1, 1, 1, 1.) for n in range(200_000)) + struct.pack('<i', 0)
    (tmp_path/'deep.t7').write_bytes(deep)
    with pytest.raises(Torch7Error, match='holds a table'): read_network(tmp_path/'deep.t7')
    with pytest.raises(Torch7Error, match='cannot be opened'): read_network(tmp_path/'none.t7')
    with pytest.raises(Torch7Error, match='cannot be opened'): read_network(tmp_path)


@pytest.mark.parametrize('stem', ['basic64_D', 'fork64_G'])
def test_damaged_anywhere(tmp_path, stem):
    "Truncated at many places, and with bytes changed: a Torch7Error, or a network (numbers have no checksum), and never for long"
    whole, dice, file = (HERE/f'{stem}.t7').read_bytes(), random.Random(7), tmp_path/'x.t7'
    for end in sorted(dice.sample(range(len(whole)), 60)):
        file.write_bytes(whole[:end])
        with pytest.raises(Torch7Error): read_network(file)
    texts = [at for at in range(len(whole) - 8) if whole[at:at + 2].isalpha()]
    for _ in range(250):
        data = bytearray(whole)
        at = dice.choice(texts) + dice.randrange(-24, 8) if dice.random() < .7 else dice.randrange(len(whole))
        at = max(0, at)
        if dice.random() < .5: data[at] = dice.randrange(256)
        else: data[at:at + 4] = dice.choice([b'\xff\xff\xff\x7f', b'\xff'*4, b'\0'*4, b'\0\0\0\x80'])
        file.write_bytes(data)
        try: read_network(file)
        except Torch7Error as error: assert str(file) in str(error)


def test_convert_refuses(tmp_path):
    generator, critic = HERE/'encdec64_G.t7', HERE/'basic64_D.t7'
    for files in ([critic], [], [generator]*3, [generator, critic, critic], [generator, HERE/'fork64_G.t7']):
        with pytest.raises(ValueError, match='give one generator'): convert(files, 'n', tmp_path)
    with pytest.raises(ValueError, match='becomes a folder'): convert(generator, '../n', tmp_path/'inner')
    with pytest.raises(ValueError, match='direction'): convert(generator, 'n', tmp_path, direction='up')
    (tmp_path/'bad.t7').write_bytes(generator.read_bytes()[:-9])
    with pytest.raises(ValueError, match='truncated'): convert([generator, tmp_path/'bad.t7'], 'n', tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ['bad.t7']
    convert([critic, generator], 'n', tmp_path)
    with pytest.raises(FileExistsError, match='choose another'): convert(generator, 'n', tmp_path)


def test_reading_leaves_random_numbers_alone():
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    read_network(HERE/'fork64_G.t7')
    assert torch.rand(1) == expected


# ---- other options than the recorded ones: a second, plain transcription of METHOD.md to compare with ----

class PlainProgram:
    "X-Seq and X-Pix2pix as METHOD.md words them for the program, network by network, sharing only the layers with our regimes"
    def __init__(self, networks, config):
        self.networks, self.config = deepcopy(networks), config
        self.memory = {key: [(torch.zeros_like(p), torch.zeros_like(p)) for p in network.parameters()]
                       for key, network in self.networks.items()}
        self.t = 0

    def zero_biases(self, *keys):
        for key in keys:
            for layer in self.networks[key].modules():
                if isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d)): layer.bias.data.zero_()

    def adam(self, key, gradients):
        for p, g, (m, v) in zip(self.networks[key].parameters(), gradients, self.memory[key]):
            m.mul_(.5).add_(g, alpha=.5)
            v.mul_(.999).addcmul_(g, g, value=.001)
            p.data -= 2e-4*(1 - .999**self.t)**.5/(1 - .5**self.t)*m/(v.sqrt() + 1e-8)

    def pair(self, a, b): return torch.cat([a, b], 1) if self.config.conditional else b

    def bce(self, verdict, label):
        "Value, and the gradient at the verdict"
        p = verdict.detach().sigmoid()
        value = -(label*(p + 1e-12).log() + (1 - label)*(1 - p + 1e-12).log()).mean().item()
        return value, (p - label)/((1 - p + 1e-12)*(p + 1e-12))/p.numel()*p*(1 - p)

    def update_d(self, d, g, condition, real, fake):
        if not self.config.use_gan: return 0.
        self.zero_biases(d, g)
        total, gradients = 0., 0
        for image, label in ((real, .9), (fake.detach(), 0.)):
            verdict = self.networks[d](self.pair(condition.detach(), image))
            value, slope = self.bce(verdict, label)
            total += value
            parts = torch.autograd.grad(verdict, list(self.networks[d].parameters()), slope)
            gradients = parts if not gradients else [a + b for a, b in zip(gradients, parts)]
        self.adam(d, gradients)
        return total/2

    def update_g(self, d, g, condition, real, fake, seen=None, extra=0.):
        self.zero_biases(d, g)
        leaf, value, slope_gan = fake.detach().requires_grad_(), 0., 0.
        if self.config.use_gan:
            verdict = self.networks[d](self.pair(condition.detach(), leaf))
            value, slope = self.bce(verdict, .9)
            slope_gan, = torch.autograd.grad(verdict, leaf, slope)
        l1 = (fake.detach() - real).abs().mean().item()
        total = slope_gan + self.config.lambda_l1*(fake.detach() - real).sign()/real.numel() + extra
        wanted = list(self.networks[g].parameters()) + ([] if seen is None else [seen])
        gradients = torch.autograd.grad(fake, wanted, total)
        kept = None if seen is None else gradients[-1]
        self.adam(g, gradients[:len(list(self.networks[g].parameters()))])
        return value, l1, kept

    def step(self, batch):
        self.t += 1
        image = self.networks['G1'](batch.source)
        seen = image.detach().requires_grad_()
        seg = self.networks['G2'](seen)
        losses = {'D2': self.update_d('D2', 'G2', image, batch.target_seg, seg)}
        losses['G2'], losses['L1_2'], kept = self.update_g('D2', 'G2', image, batch.target_seg, seg, seen)
        losses['D1'] = self.update_d('D1', 'G1', batch.source, batch.target, image)
        losses['G1'], losses['L1_1'], _ = self.update_g('D1', 'G1', batch.source, batch.target, image,
                                                        extra=self.config.lambda_grads*kept)
        return losses


@pytest.mark.parametrize('options', [
    dict(), dict(direction='g2a', conditional=False, n_layers=2), dict(use_gan=False), dict(lambda_grads=.5, lambda_l1=10., ngf=3, ndf=4),
    dict(discriminator='pixel'), dict(n_layers=1, lambda_grads=0.)], ids=str)
def test_other_options(options):
    "X-Seq, whose order of updates is the richest, against the plain transcription; batch 3, 64 pixels"
    torch.manual_seed(5)
    regime = XSeq(RegimeConfig(**{'size': 64, 'ngf': 2, 'ndf': 2, **options}), program=as_program()).double()
    plain = PlainProgram(regime.networks, regime.config)
    noise = nn.functional.avg_pool2d(torch.rand(9, 3, 70, 70, dtype=torch.float64)*2 - 1, 7, stride=1)*3
    batch = CrossViewBatch(*noise.clamp(-1, 1).split(3), names=list('abc'))
    for _ in range(3):
        ours, theirs = regime.step(batch), plain.step(batch)
        assert ours.keys() == theirs.keys()
        for key in ours: assert abs(ours[key].item() - theirs[key]) <= 1e-10*max(abs(theirs[key]), 1e-3), key
    for key, network in regime.networks.items():
        other = torch7_arrays(plain.networks[key])
        layers = list(torch7_layers(network))
        before_norm = {a for a, b in zip(layers, layers[1:]) if 'Convolution' in a and 'BatchNorm' in b}
        for name, array in torch7_arrays(network).items():
            if name.split('.')[0] in before_norm and name.endswith('.bias'): continue
            assert off(array, other[name]) <= (1e-5 if 'running_mean' in name else 1e-6), (key, name)
