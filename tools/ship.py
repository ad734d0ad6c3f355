"""From the study's runs to the trained networks that come with the package: `python tools/ship.py WORK`.

WORK is the folder that tools/study.py was given. Writes data_samples/pretrained (weights in half precision, a card each),
data_samples/timeline (how X-Fork a2g learnt, in pictures) and nbs/images/imagined.jpg. Of each regime and direction one run is shipped: see RULE.
"""
import argparse
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from safetensors.torch import load_file, save_file

from crossview_nb.pretrained import PRETRAINED, load_pretrained
from crossview_nb.training import find_checkpoint, read_config, written_whole
from crossview_nb.widgets import sample_places, to_picture
from study import PAIRS, RESULTS, ROOT, SEED, SEEDS, measure

SAMPLES = ROOT/'data_samples'
CONSISTENCY = 'semantic consistency of the imagined image'
RULE = (f'of the runs of this regime and direction that were done (all under "chosen"; n2: a discriminator of two layers, else three), the one whose imagined images agree best with '
        f'the real segmentation (pixel accuracy of the shipped segmenter on them, in percent) on {PAIRS["val"]} validation places; the test places had no say')
LIMITS = ('ToyTown only, {size} by {size} pixels: it knows no photograph. What the source cannot show (clouds, the far side of a house, cars that hide) '
          'is averaged or made up. Expects the camera of ToyTown: the road runs up through the middle of the aerial view. FID and KID are taken '
          'on features of ToyTown\'s own classifier: not to be compared with published ones.')
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
    "run -> result, of the seeds and critics that are done"
    names = [f'{name}{critic}-seed{seed}' for critic in ('', '-n2') for seed in SEEDS]
    return {run: json.loads((RESULTS/f'{run}.json').read_text(encoding='utf-8')) for run in names if (RESULTS/f'{run}.json').is_file()}


def best(found):
    "The run that the rule chooses"
    return max(found, key=lambda run: figure(found[run], 'val, running', CONSISTENCY, 'pixel accuracy')['value'])


def card_of(name, run, found, config):
    "What a reader should know of a model"
    result, networks = found[run], config.networks
    measures = {}
    for group, names in TOLD.items():
        for measure_name in names:
            one = figure(result, 'test, running', group, measure_name)
            if one: measures[f'{group}: {measure_name}' + (f' ({one["unit"]})' if one['unit'] else '')] = [one['value'], one['low'], one['high']]
    return dict(name=name, data=f'ToyTown, {PAIRS["train"]:,} rendered pairs of {networks.size} by {networks.size} pixels, seed {SEED}; measured on {PAIRS["test"]:,} others',
                budget=f'{config.epochs} epochs in batches of {config.batch_size}: {result["iterations"]:,} updates of each network, {result["seconds"]/60:.0f} minutes on one '
                       f'busy CPU core, {result["precision"]}; Adam {networks.learning_rate:g}; width {networks.ngf}; discriminators of {networks.n_layers} layers',
                run=run, rule=RULE,
                chosen={one: round(figure(other, 'val, running', CONSISTENCY, 'pixel accuracy')['value'], 3) for one, other in found.items()},
                limits=LIMITS.format(size=networks.size), measures=measures)


def ship_model(name, work, shelf):
    "One folder of the shelf"
    found = candidates(name)
    if not found: return print(f'{name}: no run is done yet')
    run = best(found)
    checkpoint = find_checkpoint(work/'checkpoints'/run)
    config, about = read_config(checkpoint)[0], json.loads((checkpoint/'config.json').read_text(encoding='utf-8'))
    with written_whole(shelf/name) as folder:
        for path in checkpoint.glob('*.safetensors'): halved(checkpoint, path.stem, folder)
        if name == 'fork-a2g':
            beside = {1: f'{name}-n1-seed0', 4: f'{name}-n4-seed0', **{depth: best({run: one for run, one in found.items() if one['config']['networks']['n_layers'] == depth}) for depth in (2, 3)}}
            for depth in {1, 2, 3, 4} - {config.networks.n_layers}: halved(find_checkpoint(work/'checkpoints'/beside[depth]), 'D', folder/f'n{depth}')
        about['training'].update(data_root='.', cache=None, checkpoints='checkpoints')   # the folders of whoever trained it mean nothing to others
        (folder/'config.json').write_text(json.dumps(about, indent=1), encoding='utf-8')
        card = card_of(name, run, found, config)
        local = replace(config, data_root=str(work/'data'), name=folder.name, checkpoints=str(folder.parent))
        half = measure(local, 'test', 'running')
        card['half precision'] = {f'{one["group"]}: {one["name"]}': f'{one["value"]:.5g} instead of {other["value"]:.5g}'
                                  for one, other in zip(half['figures'], found[run]['figures']['test, running']['figures'])
                                  if one['name'] in ('SSIM', 'PSNR') and one['group'] == 'standard' or one['name'].startswith('FID')}
        (folder/'card.json').write_text(json.dumps(card, indent=1), encoding='utf-8')
    print(f'{name}: {run}, {sum(path.stat().st_size for path in (shelf/name).rglob("*") if path.is_file())/2**20:.1f} MB')


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


def ship_sheet(path, edge=96, places=6):
    "What the shipped models imagine, for the README: the first places of the validation samples"
    columns, titles = [], []
    for direction, source, target in (('a2g', 'aerial', 'street'), ('g2a', 'street', 'aerial')):
        batch = sample_places(direction, places)
        with torch.no_grad(): imagined = [load_pretrained(name)(batch.source)[0] for name in PRETRAINED if name.endswith(direction)]
        columns.append(torch.stack([batch.source, *imagined, batch.target]))
        titles.append([f'{source}, given', 'X-Pix2pix', 'X-Fork', 'X-Seq', f'{target}, real'])
    margin, gap = 96, 12
    sheet = Image.new('RGB', (2*(margin + places*edge) + gap, 5*edge), 'white')
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(13)
    for block, (pictures, words) in enumerate(zip(columns, titles)):
        left = block*(margin + places*edge + gap)
        for row, word in enumerate(words):
            draw.text((left + margin - 6, row*edge + edge//2), word.replace(', ', ',\n'), fill='black', font=font, anchor='rm', align='right')
            for at in range(places): sheet.paste(Image.fromarray(to_picture(pictures[row, at])).resize((edge - 2, edge - 2), Image.BICUBIC), (left + margin + at*edge, row*edge))
    partial = path.with_suffix('.partial')
    sheet.save(partial, 'JPEG', quality=88)
    partial.replace(path)


if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('work', type=Path, help='the folder that tools/study.py was given')
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    for name in PRETRAINED: ship_model(name, chosen.work, SAMPLES/'pretrained')
    run = chosen.work/'checkpoints'/'fork-a2g-n2-seed0'
    if (run/'snapshots').is_dir(): ship_timeline(run, SAMPLES/'timeline')
    ship_sheet(ROOT/'nbs'/'images'/'imagined.jpg')
