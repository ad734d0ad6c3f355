"""Notebooks in a real browser: what the tests of explore notebooks share (conftest.py has the fixtures `page` and `lab`).

A test asks for `page` and calls the functions below. JupyterLab serves a copy: the notebooks of the checkout stay as they are.
"""
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from weakref import WeakKeyDictionary

ROOT = Path(__file__).resolve().parent.parent
WIDTH, HEIGHT = 1280, 900
OPTIONS = '''--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking --disable-component-update
             --disable-sync --disable-dev-shm-usage --force-color-profile=srgb'''.split()
NO_NETWORK = '--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1'   # whatever a page asks of the world is an error, and is seen
# What may be written to the console as an error: regular expressions, each with its reason.
NOISE = (r'colab-badge\.svg',)   # the badge below a title is Google's picture, and tests have no network
SETTINGS = {'apputils-extension/notification': dict(fetchNews='false', checkForUpdates=False),
            'docmanager-extension/plugin': dict(autosave=False),
            'notebook-extension/tracker': dict(windowingMode='none')}   # every cell is drawn, also one that is far down
_known = WeakKeyDictionary()   # page -> its console errors, and the folder for screenshots


# --- server and browser: for conftest.py -----------------------------------------------------------------------

def find_chromium():
    "Path of a Chromium or Chrome (the variable CHROMIUM names another), or None"
    names = [os.environ['CHROMIUM']] if os.environ.get('CHROMIUM') else ['chromium', 'chromium-browser', 'google-chrome', 'google-chrome-stable']
    return next(filter(None, map(shutil.which, names)), None)


def free_port():
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        return s.getsockname()[1]


def isolated(folder):
    "Variables that keep Jupyter's settings, data and files at work in a folder, away from the user's own"
    places = dict(JUPYTER_CONFIG_DIR='config', JUPYTER_DATA_DIR='data', JUPYTER_RUNTIME_DIR='runtime', IPYTHONDIR='ipython',
                  JUPYTERLAB_SETTINGS_DIR='settings', JUPYTERLAB_WORKSPACES_DIR='workspaces')
    for name in places.values(): (folder/name).mkdir(parents=True, exist_ok=True)
    return {variable: str(folder/name) for variable, name in places.items()}


@contextmanager
def served(command, url, log, env, patience=60):
    "A server while it is needed; an error with its last words if it does not answer"
    with open(log, 'w') as out: process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, env=env, cwd=Path(log).parent)
    try:
        end = time.monotonic() + patience
        while True:
            try:
                urllib.request.urlopen(url, timeout=5).close()
                break
            except OSError:
                if process.poll() is not None or time.monotonic() > end:
                    raise RuntimeError(f'{command} does not answer:\n{Path(log).read_text()[-3000:]}') from None
                time.sleep(.1)
        yield process
    finally:
        process.terminate()
        try: process.wait(20)
        except subprocess.TimeoutExpired: process.kill()


@contextmanager
def jupyterlab(folder):
    "JupyterLab on a copy of the notebooks, without a token: `.url`, and `.root`, the folder that it serves"
    root, env = folder/'served', os.environ | isolated(folder/'jupyter')
    shutil.copytree(ROOT/'nbs', root/'nbs', ignore=shutil.ignore_patterns('.ipynb_checkpoints', 'checkpoints', 'results', 'toytown-cache'))
    for name, setting in SETTINGS.items():
        path = folder/'jupyter'/'settings'/'@jupyterlab'/f'{name}.jupyterlab-settings'
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(setting))
    port = free_port()
    command = [sys.executable, '-m', 'jupyterlab', '--no-browser', '--allow-root', '--ip=127.0.0.1', f'--port={port}', '--ServerApp.port_retries=0',
               '--IdentityProvider.token=', f'--ServerApp.root_dir={root}', '--expose-app-in-browser', '--LabApp.extension_manager=readonly']
    env['PYTHONPATH'] = os.pathsep.join(filter(None, [str(ROOT), env.get('PYTHONPATH')]))
    with served(command, f'http://127.0.0.1:{port}/api/status', folder/'jupyterlab.log', env):
        yield SimpleNamespace(url=f'http://127.0.0.1:{port}', root=root)


@contextmanager
def opened(url, screenshots):
    "A page of a fresh Chromium, which reaches nothing but this machine"
    from playwright.sync_api import sync_playwright
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=find_chromium(), args=[*OPTIONS, NO_NETWORK])
        page = browser.new_context(base_url=url, viewport=dict(width=WIDTH, height=HEIGHT)).new_page()
        errors = []
        page.on('console', lambda said: errors.append(f"{said.text} ({said.location.get('url', '')})") if said.type == 'error' else None)
        page.on('pageerror', lambda error: errors.append(str(error.stack or error)))
        _known[page] = SimpleNamespace(errors=errors, screenshots=Path(screenshots))
        try: yield page
        finally:
            if page.evaluate('Boolean(window.jupyterapp?.shell?.currentWidget?.sessionContext)'):   # each kernel holds a PyTorch
                page.evaluate('window.jupyterapp.shell.currentWidget.sessionContext.shutdown()')
            browser.close()


# --- what a test does ------------------------------------------------------------------------------------------

def open_notebook(page, path):
    "Open a notebook, named as in the repository ('nbs/explore/x.ipynb'), and wait for its kernel"
    page.goto(f'/doc/tree/{path}?reset')
    page.wait_for_selector('.jp-Notebook .jp-Cell', timeout=60_000)
    page.wait_for_function("window.jupyterapp?.shell.currentWidget?.sessionContext?.session?.kernel?.status === 'idle'", timeout=60_000)
    # What a widget's callback says or raises belongs to no cell: it is heard on the kernel's channel.
    page.evaluate('''() => {
        window.heard = {messages: 0, errors: []};
        window.jupyterapp.shell.currentWidget.sessionContext.session.kernel.iopubMessage.connect((_, message) => {
            const {content, header} = message;
            if (header.msg_type !== 'status') window.heard.messages += 1;   // JupyterLab asks for this and that; answers are more than a state
            if (header.msg_type === 'error') window.heard.errors.push(content.traceback.join('\\n'));
            if (header.msg_type === 'stream' && content.text.includes('Traceback (most recent call last)')) window.heard.errors.push(content.text);
        });
    }''')


def run_all(page, timeout=300):
    "Run All Cells, as from the menu; comes back when no cell is running or waiting any more"
    page.evaluate("() => { window.jupyterapp.commands.execute('notebook:run-all-cells'); }")
    page.wait_for_timeout(200)
    wait_idle(page, timeout)


def wait_idle(page, timeout=60):
    "Wait until the kernel has nothing to do"
    page.wait_for_function('''() => window.jupyterapp.shell.currentWidget.sessionContext.session.kernel.status === 'idle'
        && ![...document.querySelectorAll('.jp-InputPrompt')].some(prompt => prompt.textContent.includes('*'))''', timeout=timeout*1000)


def cell_errors(page):
    "Errors among the outputs, widgets that could not be shown, and errors that callbacks have raised since the notebook was opened"
    stored = page.evaluate('''() => window.jupyterapp.shell.currentWidget.content.widgets.flatMap(cell =>
        (cell.model.outputs?.toJSON() ?? []).filter(output => output.output_type === 'error').map(output => output.traceback.join('\\n')))''')
    broken = page.evaluate('''() => [...document.querySelectorAll('.jp-OutputArea-output')].map(output => output.innerText).filter(
        text => /Error (displaying|creating|rendering) widget|Error setting state/.test(text))''')
    found = [re.sub(r'\x1b\[[\d;]*m', '', text) for text in stored + page.evaluate('window.heard.errors') + broken]
    return list(dict.fromkeys(found))


def console_errors(page):
    "What the page has written to the browser's console as errors, without JupyterLab's own noise"
    return [text for text in _known[page].errors if not any(re.search(noise, text) for noise in NOISE)]


def widgets(page):
    "All widgets that are shown, outermost ones only; narrow it down: widgets(page).get_by_role('button', name='Play')"
    return page.locator('.jp-OutputArea-output > .jupyter-widgets, .jp-OutputArea-output .widget-subarea > .jupyter-widgets')


def messages_within(page, seconds=1.):
    "How many messages the kernel sends by itself: none, if nothing runs"
    before = page.evaluate('window.heard.messages')
    page.wait_for_timeout(seconds*1000)
    return page.evaluate('window.heard.messages') - before


def too_wide(page):
    "What reaches beyond the right edge of the window or of its output, so that a reader would have to scroll sideways"
    return page.evaluate('''() => {
        const wide = [...document.querySelectorAll('.jp-OutputArea-output')].filter(output => output.scrollWidth > output.clientWidth + 1);
        if (document.documentElement.scrollWidth > innerWidth) wide.push(document.documentElement);
        return wide.map(element => `${element.scrollWidth} pixels in ${element.clientWidth}: ${element.innerText.slice(0, 200)}`);
    }''')


def runs_quietly(page, path):
    "Opens an explore notebook and runs it: widgets are shown, nothing fails, nothing runs on, nothing is wider than the window"
    open_notebook(page, path)
    run_all(page)
    assert not cell_errors(page) and not console_errors(page)
    assert widgets(page).count(), 'no widget is shown'
    assert messages_within(page, 1.5) == 0, 'something runs after Run All'
    assert not too_wide(page), 'wider than the window'
    screenshot(page, Path(path).stem)


def pixels(page, picture):
    "The address of a picture (a locator of an <img> or <canvas>): it differs as soon as another picture is shown"
    return picture.evaluate("element => element.tagName === 'CANVAS' ? element.toDataURL() : element.src")


def wait_for_change(page, picture, before, timeout=20):
    "Wait until a picture no longer is what `pixels` said before; a timeout if it stays"
    page.wait_for_function("([element, before]) => (element.tagName === 'CANVAS' ? element.toDataURL() : element.src) !== before",
                           arg=[picture.element_handle(), before], timeout=timeout*1000)


def screenshot(page, name, of=None):
    "NAME.png for looking at: the whole notebook, or a part of it (a locator); in the folder CROSSVIEW_SCREENSHOTS"
    folder = _known[page].screenshots
    folder.mkdir(parents=True, exist_ok=True)
    path = folder/f'{name}.png'
    if of is not None: of.screenshot(path=path)
    else:
        cells = page.locator('.jp-Notebook .jp-Cell')
        height = page.evaluate('document.documentElement.scrollHeight')
        if cells.count():
            first, last = cells.first.bounding_box(), cells.last.bounding_box()
            height = last['y'] + last['height'] - first['y'] + 150   # and the bars above and below
        page.set_viewport_size(dict(width=WIDTH, height=round(min(max(HEIGHT, height), 12_000))))
        page.evaluate("document.querySelector('.jp-WindowedPanel-outer')?.scrollTo(0, 0)")
        page.wait_for_timeout(300)
        page.screenshot(path=path)
        page.set_viewport_size(dict(width=WIDTH, height=HEIGHT))
    return path
