"The command line as its users type it: every command, real photographs where there are some, and every mistake we could think of."
import resource
import signal
import subprocess
import sys

from dataclasses import asdict

import numpy as np
import pytest
from PIL import Image

from crossview_nb import results, runs
from crossview_nb.cli import main
from crossview_nb.training import TrainingConfig, find_checkpoint, read_config


@pytest.fixture
def crossview(tmp_path, monkeypatch, capsys):
    "Type a command in an empty folder; what it prints"
    monkeypatch.chdir(tmp_path)
    def run(*words, status=0):
        found = main([str(word) for word in words])
        said = capsys.readouterr()
        assert found == status, said
        if status == 2: assert said.err.startswith('crossview: error: ') and said.err.count('\n') == 1, said
        return said.out + said.err
    return run


def quick(root, phase, size, name, *more):
    "The words of a training of a few iterations"
    return ('train', '--data-root', root, '--phase', phase, '--size', size, '--batch-size', 2, '--ngf', 2, '--ndf', 2,
            '--epochs', 1, '--limit', 6, '--workers', 0, '--name', name, *more)


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    "Seven places to learn from and five to be tested on, 32 pixels, in no particular style"
    root, noise = tmp_path_factory.mktemp('data'), np.random.default_rng(0)
    for phase, n in (('train', 7), ('val', 5)):
        (root/phase).mkdir()
        for i in range(n):
            Image.fromarray(noise.integers(0, 256, (4, 16, 3), dtype=np.uint8).repeat(8, 0).repeat(8, 1)).save(root/phase/f'{phase} {i}.png')
    return root


@pytest.mark.parametrize('regime', ['pix2pix', 'fork', 'seq'])
@pytest.mark.parametrize('direction', ['a2g', 'g2a'])
def test_train_then_test(crossview, data, tmp_path, regime, direction):
    crossview(*quick(data, 'train', 32, 'run', '--regime', regime, '--direction', direction))
    said = crossview('test', '--data-root', data, '--name', 'run', '--batch-size', 2)
    folder = tmp_path/'results/run/1_net_G_val'
    assert f'{folder}/index.html' in said and (folder/'contact_sheet.jpg').is_file()
    written = sorted(p.name for p in (folder/'images').iterdir())
    assert {'input', 'output', 'target'} <= set(written) and ('seg_output' in written) == (regime != 'pix2pix')
    for kind in written: assert len(list((folder/'images'/kind).iterdir())) == 5, 'the last incomplete batch counts too'
    page = (folder/'index.html').read_text()
    assert 'images/output/val%200.png' in page and 'images/input/val%204.png' in page
    first = Image.open(data/'val/val 0.png').crop((32, 0, 64, 32) if direction == 'a2g' else (0, 0, 32, 32))
    assert np.array_equal(Image.open(folder/'images/input/val 0.png'), first)


def test_norm_batch_and_continue(crossview, data, tmp_path):
    crossview(*quick(data, 'train', 32, 'run'))
    assert 'already' in crossview(*quick(data, 'train', 32, 'run'), status=2)
    crossview(*quick(data, 'train', 32, 'run', '--epochs', 2, '--continue-training'))
    for norm in ('running', 'batch'):
        crossview('test', '--data-root', data, '--name', 'run', '--norm', norm, '--results', norm, '--batch-size', 4)
    one, other = (np.asarray(Image.open(tmp_path/f'{norm}/run/2_net_G_val/images/output/val 0.png')).astype(int) for norm in ('running', 'batch'))
    assert abs(one - other).max() > 2
    assert len(list((tmp_path/'batch/run/2_net_G_val/images/output').iterdir())) == 5
    assert 'only one image' in crossview('test', '--data-root', data, '--name', 'run', '--norm', 'batch', '--how-many', 1, status=2)


def test_a_continued_run_keeps_its_options(crossview, data, tmp_path):
    crossview(*quick(data, 'train', 32, 'run', '--regime', 'pix2pix', '--no-flip', '--lambda-l1', 50))
    first, _ = read_config(find_checkpoint(tmp_path/'checkpoints/run'))
    assert '2 epochs done' in crossview('train', '--name', 'run', '--epochs', 2, '--continue-training')
    then, about = read_config(find_checkpoint(tmp_path/'checkpoints/run'))
    assert about['progress'] == dict(epoch=2, batch=0, iteration=6)
    assert asdict(then) == asdict(first) | dict(epochs=2)
    assert 'does not fit' in crossview('train', '--name', 'run', '--ngf', 4, '--continue-training', '--epochs', 3, status=2)
    (tmp_path/'checkpoints').rename(tmp_path/'moved')
    crossview('train', '--name', 'run', '--checkpoints', 'moved', '--epochs', 3, '--continue-training')
    assert find_checkpoint(tmp_path/'moved/run').name == 'epoch-0003' and not (tmp_path/'checkpoints').exists()
    crossview(*quick(data, 'train', 32, 'new', '--continue-training'))  # nothing there yet: begins


OTHERS = dict(regime='seq', phase='dusk', val_phase='dawn', panel_order='aerial,street,aerial_seg,street_seg', order='serial', device='cpu',
              precision='bf16', direction='g2a', size=64, discriminator='pixel', bias='all', load_size=300, limit=7, lambda_segmentation=3.5,
              cache='decoded', init_from='elsewhere', log='csv', tracker='tensorboard')


def test_every_option_reaches_its_field(monkeypatch, tmp_path):
    asked = []
    class Done: epoch, stopped, is_main = 1, False, True
    monkeypatch.chdir(tmp_path)
    def train(config, continue_training=False, measures=None):
        asked.append((config, continue_training))
        return Done
    monkeypatch.setattr(runs, 'train', train)
    plain = asdict(TrainingConfig())
    fields = plain | plain['networks']
    fields.pop('networks')
    for name, default in fields.items():
        dashed, asked[:] = name.replace('_', '-'), []
        value = (not default if isinstance(default, bool) else OTHERS.get(name, f'{default}x' if isinstance(default, str) else
                 default + 1 if isinstance(default, int) else default and default/2 or 0.25))
        words = [f'--{dashed}' if value else f'--no-{dashed}'] if isinstance(value, bool) else [f'--{dashed}', str(value)]
        assert main(['train', *words]) == 0
        config, go_on = asked[0]
        found = asdict(config) | asdict(config.networks)
        assert not go_on and {key: found[key] for key in fields if found[key] != fields[key]} == {name: value}
    main(['train', '--continue-training'])
    assert asked[-1] == (TrainingConfig(), True)


def test_every_option_of_test_reaches_its_parameter(monkeypatch, tmp_path):
    asked = {}
    def write_results(name:str, data_root:str, norm:str='running', dropout:bool=False, how_many:int|None=None):
        asked.update(locals())
        return tmp_path
    monkeypatch.setattr(results, 'write_results', write_results)
    assert main('test --name a --data-root b --norm batch --dropout --how-many 3'.split()) == 0
    assert {key: asked[key] for key in ('name', 'data_root', 'norm', 'dropout', 'how_many')} == dict(
        name='a', data_root='b', norm='batch', dropout=True, how_many=3)


@pytest.mark.parametrize('words, message', [
    (['train', '--epoch', '3'], 'did you mean --epochs?'), (['train', '--epochs', 'many'], "invalid int value: 'many'"),
    (['trian'], "invalid choice: 'trian'"), ([], 'COMMAND'), (['test'], '--name'), (['train', '--qqq'], '--qqq is not understood')])
def test_slips_of_the_hand_get_one_line(capsys, words, message):
    with pytest.raises(SystemExit) as end: main(words)
    said = capsys.readouterr().err
    assert end.value.code == 2 and said.startswith('crossview: error: ') and said.count('\n') == 1 and message in said


def test_traceback_on_demand(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    for words in (['--traceback', 'test', '--name', 'x', '--data-root', '.'], ['test', '--name', 'x', '--data-root', '.', '--traceback']):
        with pytest.raises(FileNotFoundError): main(words)


def test_interrupt_ends_with_130_and_a_checkpoint(data, tmp_path):
    words = [str(word) for word in quick(data, 'train', 32, 'run', '--picture-seconds', 0.1)]
    words[words.index('--epochs') + 1] = '1000000'
    program = f'from crossview_nb.cli import main; raise SystemExit(main({words!r}))'
    process = subprocess.Popen([sys.executable, '-c', program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path)
    for line in process.stdout:
        if line.startswith('epoch'): break  # training has begun
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=60)
    assert process.returncode == 130 and '--continue-training' in said[0] and 'stopped' in said[1] and 'Traceback' not in said[1]
    assert find_checkpoint(tmp_path/'checkpoints/run').is_dir()


def test_toytown(crossview, tmp_path):
    said = crossview('toytown', 'town', '--n', 3, '--size', 32, '--split', 'val')
    assert '3 pairs in ' in said and len(list((tmp_path/'town/val').glob('*.png'))) == 3
    assert Image.open(next((tmp_path/'town/val').glob('*.png'))).size == (128, 32)


def test_combine(crossview, data, tmp_path):
    for panel, name in enumerate(('street', 'aerial', 'street_seg')):
        (tmp_path/name).mkdir()
        Image.open(data/'val/val 0.png').crop((32*panel, 0, 32*panel + 32, 32)).save(tmp_path/name/'one.png')
    crossview('combine', '--street', 'street', '--aerial', 'aerial', '--street-seg', 'street_seg', '--output', 'out/train', '--size', 32)
    made, real = (np.asarray(Image.open(path)) for path in (tmp_path/'out/train/one.png', data/'val/val 0.png'))
    assert np.array_equal(made[:, :96], real[:, :96]) and not made[:, 96:].any()


@pytest.mark.parametrize('regime', ['pix2pix', 'fork', 'seq'])
@pytest.mark.parametrize('direction', ['a2g', 'g2a'])
def test_real_dayton_pairs(crossview, shared, tmp_path, regime, direction):
    root = shared/'real_samples'
    crossview(*quick(root, 'dayton', 256, 'real', '--regime', regime, '--direction', direction))
    crossview('test', '--data-root', root, '--phase', 'dayton', '--name', 'real')
    assert len(list((tmp_path/'results/real/1_net_G_dayton/images/output').iterdir())) == 8


@pytest.mark.parametrize('phase', ['dayton_aerial_first', 'cvusa_aerial_first'])
def test_real_pairs_in_another_order(crossview, shared, tmp_path, phase):
    root, order = shared/'real_samples', 'aerial,street,aerial_seg,street_seg'
    crossview(*quick(root, phase, 256, 'real', '--panel-order', order))
    crossview('test', '--data-root', root, '--phase', phase, '--name', 'real')  # the checkpoint knows the order
    source = next((tmp_path/f'results/real/1_net_G_{phase}/images/input').iterdir())
    file = next(p for p in (root/phase).iterdir() if p.stem == source.stem)
    assert np.array_equal(Image.open(source), np.asarray(Image.open(file).convert('RGB'))[:, :256])


def spoil(folder, how):
    "A phase folder with one bad file among good ones"
    for i in range(4): Image.new('RGB', (128, 32)).save(folder/f'{i}.png')
    if how == 'text': (folder/'2.png').write_text('not an image')
    if how == 'width': Image.new('RGB', (96, 32)).save(folder/'2.png')
    if how == 'torn':
        Image.effect_noise((128, 32), 90).convert('RGB').save(folder/'whole.jpg')
        (folder/'torn.jpg').write_bytes((folder/'whole.jpg').read_bytes()[:900])
        (folder/'whole.jpg').unlink()


@pytest.mark.parametrize('how, message', [('text', '2.png'), ('width', '96 x 32'), ('torn', 'torn.jpg')])
def test_bad_pictures_are_named(crossview, tmp_path, how, message):
    (tmp_path/'data/train').mkdir(parents=True)
    spoil(tmp_path/'data/train', how)
    assert message in crossview(*quick('data', 'train', 32, 'run'), status=2)
    assert not (tmp_path/'checkpoints').exists()


@pytest.mark.parametrize('words, message', [
    (['--phase', 'evening'], 'evening'), (['--direction', 'up'], 'a2g'), (['--size', '48'], 'power of two'),
    (['--batch-size', '1'], 'batch-normalised'), (['--regime', 'gan'], 'fork'), (['--n-layers', '4'], 'deepest that fits is 3'),
    (['--panel-order', 'street,aerial'], 'panel'), (['--name', '../x'], 'without slashes'), (['--epochs', '0'], 'at least 1'),
    (['--no-use-gan', '--no-use-l1'], 'nothing is left'), (['--precision', 'fp16'], 'GPU'), (['--load-size', '16'], 'load size')])
def test_bad_options(crossview, data, tmp_path, words, message):
    assert message in crossview(*quick(data, 'train', 32, 'run', '--device', 'cpu', *words), status=2)
    assert list(tmp_path.iterdir()) == []


def test_empty_phase_and_unknown_run(crossview, data, tmp_path):
    (tmp_path/'data/train').mkdir(parents=True)
    assert 'holds no picture' in crossview(*quick('data', 'train', 32, 'run'), status=2)
    assert 'holds none' in crossview('test', '--data-root', data, '--name', 'nobody', status=2)


def test_output_folder_that_is_a_file(crossview, data, tmp_path):
    (tmp_path/'checkpoints').mkdir()
    (tmp_path/'checkpoints/run').write_text('')
    assert 'is a file' in crossview(*quick(data, 'train', 32, 'run'), status=2)
    (tmp_path/'town').write_text('')
    assert 'town' in crossview('toytown', 'town', '--n', 1, '--size', 32, status=2)
    (tmp_path/'results').write_text('')
    crossview(*quick(data, 'train', 32, 'fine'))
    assert 'is a file' in crossview('test', '--data-root', data, '--name', 'fine', status=2)


def test_disk_that_fills_up(data, tmp_path):
    "No file may grow beyond 20 kB, which a checkpoint does"
    def small_files():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
    words = [str(word) for word in quick(data, 'train', 32, 'run', '--ngf', 8)]
    program = f'from crossview_nb.cli import main; raise SystemExit(main({words!r}))'
    done = subprocess.run([sys.executable, '-c', program], capture_output=True, text=True, cwd=tmp_path, preexec_fn=small_files)
    assert done.returncode == 2 and 'could not be written' in done.stderr, done.stderr
    assert not [p for p in (tmp_path/'checkpoints/run').iterdir() if p.suffix != '.jsonl']


def test_help_and_version(capsys):
    for words in (['train', '--help'], ['--version']):
        with pytest.raises(SystemExit) as end: main(words)
        assert end.value.code == 0
    said = capsys.readouterr().out
    for word in ('--lambda-grads', '--panel-order', '--no-conditional', '--learning-rate', 'examples:', 'crossview_nb 0'): assert word in said
    program = 'import sys\nfrom crossview_nb.cli import main\ntry: main(["--help"])\nexcept SystemExit: print("torch" in sys.modules)'
    done = subprocess.run([sys.executable, '-c', program], capture_output=True, text=True)
    assert done.stdout.strip().endswith('False'), 'the list of commands should not wait for PyTorch'
