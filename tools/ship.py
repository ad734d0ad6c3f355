"""From the study's runs to the trained networks that come with the package: `python tools/ship.py WORK`.

WORK is the folder that tools/study.py was given. Writes data_samples/pretrained (weights in half precision, a card each) and
data_samples/timeline (how X-Fork a2g learnt, in pictures). Of each regime and direction one seed is shipped: see RULE.
"""
import argparse
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from crossview_nb.pretrained import PRETRAINED
from crossview_nb.training import find_checkpoint, read_config, written_whole
from study import PAIRS, RESULTS, ROOT, SEED, SEEDS, measure

SAMPLES = ROOT/'data_samples'
CONSISTENCY = 'semantic consistency of the imagined image'
RULE = (f'of the runs with other seeds that were done (all under "chosen"), the one whose imagined images agree best with the real segmentation (pixel accuracy of the shipped '
        f'segmenter on them, in percent) on {PAIRS["val"]} validation places; the test places had no say')
LIMITS = ('ToyTown only, {size} by {size} pixels: it knows no photograph. What the source cannot show (clouds, the far side of a house, cars that hide) '
          'is averaged or made up. Expects the camera of ToyTown: the road runs up through the middle of the aerial view.')
TOLD = {'standard': ('SSIM', 'PSNR', 'sharpness difference'), 'ToyTown classifier': ('FID on its features', 'KID on its features', 'accuracy top-1', 'accuracy top-5'),
        CONSISTENCY: ('pixel accuracy', 'mIoU'), 'imagined segmentation': ('pixel accuracy', 'mIoU')}


def halved(checkpoint, network, folder, name=None):
    "A network's weights, in half precision; batch counters as they are"
    tensors = load_file(checkpoint/f'{network}.safetensors')
    folder.mkdir(parents=True, exist_ok=True)
    save_file({key: value.half() if value.is_floating_point() else value for key, value in tensors.items()}, folder/f'{name or network}.safetensors')


def figure(result, where, group, name):
    "One figure of a run"
    return next((found for found in result['figures'][where]['figures'] if found['group'].startswith(group) and found['name'] == name), None)


def candidates(name):
    "seed -> result, of the seeds that are done"
    paths = {seed: RESULTS/f'{name}-seed{seed}.json' for seed in SEEDS}
    return {seed: json.loads(path.read_text(encoding='utf-8')) for seed, path in paths.items() if path.is_file()}


def card_of(name, seed, found, config):
    "What a reader should know of a model"
    result, networks = found[seed], config.networks
    measures = {}
    for group, names in TOLD.items():
        for measure_name in names:
            one = figure(result, 'test, running', group, measure_name)
            if one: measures[f'{group}: {measure_name}' + (f' ({one["unit"]})' if one['unit'] else '')] = [one['value'], one['low'], one['high']]
    return dict(name=name, data=f'ToyTown, {PAIRS["train"]:,} rendered pairs of {networks.size} by {networks.size} pixels, seed {SEED}; measured on {PAIRS["test"]:,} others',
                budget=f'{config.epochs} epochs in batches of {config.batch_size}: {result["iterations"]:,} updates of each network, {result["seconds"]/60:.0f} minutes on one '
                       f'busy CPU core, {result["precision"]}; Adam {networks.learning_rate:g}; width {networks.ngf}',
                run=result['name'], rule=RULE,
                chosen={str(one): round(figure(other, 'val, running', CONSISTENCY, 'pixel accuracy')['value'], 3) for one, other in found.items()},
                limits=LIMITS.format(size=networks.size), measures=measures)


def ship_model(name, work, shelf):
    "One folder of the shelf"
    found = candidates(name)
    if not found: return print(f'{name}: no run is done yet')
    seed = max(found, key=lambda one: figure(found[one], 'val, running', CONSISTENCY, 'pixel accuracy')['value'])
    checkpoint = find_checkpoint(work/'checkpoints'/f'{name}-seed{seed}')
    config, about = read_config(checkpoint)[0], json.loads((checkpoint/'config.json').read_text(encoding='utf-8'))
    with written_whole(shelf/name) as folder:
        for path in checkpoint.glob('*.safetensors'): halved(checkpoint, path.stem, folder)
        if name == 'fork-a2g':
            for depth in (1, 2, 4):
                run = work/'checkpoints'/f'{name}-n{depth}-seed0'
                if (run/'latest.json').is_file() and (RESULTS/f'{run.name}.json').is_file(): halved(find_checkpoint(run), 'D', folder/f'n{depth}')
        about['training'].update(data_root='.', cache=None, checkpoints='checkpoints')   # the folders of whoever trained it mean nothing to others
        (folder/'config.json').write_text(json.dumps(about, indent=1), encoding='utf-8')
        card = card_of(name, seed, found, config)
        local = replace(config, data_root=str(work/'data'), name=folder.name, checkpoints=str(folder.parent))
        half = measure(local, 'test', 'running')
        card['half precision'] = {f'{one["group"]}: {one["name"]}': f'{one["value"]:.5g} instead of {other["value"]:.5g}'
                                  for one, other in zip(half['figures'], found[seed]['figures']['test, running']['figures'])
                                  if one['name'] in ('SSIM', 'PSNR') and one['group'] == 'standard' or one['name'].startswith('FID')}
        (folder/'card.json').write_text(json.dumps(card, indent=1), encoding='utf-8')
    print(f'{name}: seed {seed}, {sum(path.stat().st_size for path in (shelf/name).rglob("*") if path.is_file())/2**20:.1f} MB')


def spaced(iterations, wanted=48):
    "Close together at the start, farther apart later"
    last = iterations[-1]
    aims = [last*(at/(wanted - 1))**2 for at in range(wanted)]
    return sorted({min(iterations, key=lambda found: abs(found - aim)) for aim in aims})


def ship_timeline(run, shelf):
    "Eight places, drawn again and again"
    shots = {int(path.stem): path for path in run.glob('snapshots/*.jpg')}
    losses = [json.loads(line) for line in (run/'losses.jsonl').read_text().splitlines()]
    kept = spaced(sorted(shots))
    size = read_config(find_checkpoint(run))[0].networks.size
    with written_whole(shelf) as folder:
        means, before = {name: [] for name in losses[0] if name not in ('iteration', 'epoch')}, 0
        for iteration in kept:
            sheet = np.asarray(Image.open(shots[iteration]))
            columns = [sheet[:, at*size:(at + 1)*size].reshape(-1, size, size, 3) for at in range(5)]   # source, target, imagined, real and imagined segmentation
            strip = np.concatenate([np.concatenate(list(columns[at]), 1) for at in (2, 4)])
            Image.fromarray(strip).save(folder/f'{iteration:08d}.jpg', quality=88, subsampling=0)
            since = [row for row in losses if before < row['iteration'] <= iteration]
            for name, values in means.items(): values.append(round(sum(row[name] for row in since)/len(since), 4) if since else None)
            before = iteration
        Image.fromarray(np.concatenate([np.concatenate(list(columns[at]), 1) for at in (0, 1, 3)])).save(folder/'places.png')
        about = dict(run=run.name, size=size, iterations=kept, losses=means)
        (folder/'timeline.json').write_text(json.dumps(about), encoding='utf-8')
    print(f'timeline: {len(kept)} moments, {sum(path.stat().st_size for path in shelf.iterdir())/2**20:.1f} MB')


if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('work', type=Path, help='the folder that tools/study.py was given')
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    for name in PRETRAINED: ship_model(name, chosen.work, SAMPLES/'pretrained')
    run = chosen.work/'checkpoints'/'fork-a2g-seed0'
    if (run/'snapshots').is_dir(): ship_timeline(run, SAMPLES/'timeline')
