"""A real Chromium before the dashboard, driven over the DevTools protocol.

browser.py ADDRESS FOLDER CALLS REFUSED: opens the address, which works once, and looks at what a person would see and what
a screen reader would say. Prints one line for each thing that holds; anything that does not ends it with an error. Between
steps it prints `STEP name` and waits for the file FOLDER/name. Screenshots are left in FOLDER.
"""
import asyncio
import base64
import json
import pathlib
import subprocess
import sys
import time
import urllib.request

import websockets

ADDRESS, FOLDER, CALLS, REFUSED = sys.argv[1], pathlib.Path(sys.argv[2]), sys.argv[3], sys.argv[4]
ORIGIN = "/".join(ADDRESS.split("/")[:3])
DEADLINE = 25
FLAGS = [
    "--headless=new", "--no-sandbox", "--disable-gpu", "--remote-debugging-port=0", "--no-first-run", "--no-proxy-server",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage",
    "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1", "about:blank",
]
KEYS = {"Tab": 9, "Enter": 13, "Escape": 27, "ArrowLeft": 37, "ArrowUp": 38, "ArrowRight": 39, "ArrowDown": 40}

# The contrast of every text with what it stands on (WCAG 2.2, 1.4.3).
CONTRAST = """(() => {
  const paint = document.createElement("canvas").getContext("2d", {willReadFrequently: true});
  const rgba = (color) => { paint.clearRect(0, 0, 1, 1); paint.fillStyle = color; paint.fillRect(0, 0, 1, 1); return [...paint.getImageData(0, 0, 1, 1).data]; };
  const light = ([r, g, b]) => [r, g, b].map((c) => c / 255).map((c) => c <= .04045 ? c / 12.92 : ((c + .055) / 1.055) ** 2.4).reduce((sum, c, at) => sum + c * [.2126, .7152, .0722][at], 0);
  const ground = (element) => { for (let at = element; at; at = at.parentElement) { const color = rgba(getComputedStyle(at).backgroundColor); if (color[3] === 255) return color; } return [255, 255, 255]; };
  const found = [];
  let texts = 0;
  for (const element of document.body.querySelectorAll("*")) {
    const own = [...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
    if (!own || !element.checkVisibility() || element.closest(".hidden, .skip, noscript")) continue;
    const style = getComputedStyle(element);
    const under = element.closest("svg") ? ground(document.querySelector(".card")) : ground(element);
    const [a, b] = [light(rgba(element.closest("svg") ? style.fill : style.color)), light(under)];
    const ratio = (Math.max(a, b) + .05) / (Math.min(a, b) + .05);
    texts += 1;
    if (ratio < 4.5) found.push(`${element.textContent.trim().slice(0, 30)}: ${ratio.toFixed(2)}`);
  }
  return {texts, found};
})()"""


class Page:
    """One tab."""

    def __init__(self):
        self.number, self.waiting, self.events = 0, {}, []

    async def start(self):
        profile = FOLDER / "profile"
        self.process = subprocess.Popen(
            ["chromium", f"--user-data-dir={profile}", *FLAGS], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        told = profile / "DevToolsActivePort"
        await until("Chromium to listen", lambda: told.exists() and "\n" in told.read_text())
        port = told.read_text().split()[0]
        tabs = json.load(urllib.request.urlopen(f"http://127.0.0.1:{port}/json"))
        tab = next(tab for tab in tabs if tab["type"] == "page")
        self.socket = await websockets.connect(tab["webSocketDebuggerUrl"], max_size=None)
        self.reading = asyncio.create_task(self.read())
        for domain in ["Page", "Runtime", "Log", "Network", "Accessibility"]:
            await self.call(f"{domain}.enable")
        await self.size(1440, 900)

    async def read(self):
        async for text in self.socket:
            message = json.loads(text)
            if "id" in message:
                self.waiting.pop(message["id"]).set_result(message)
            else:
                self.events.append(message)

    async def call(self, method, **params):
        self.number += 1
        answer = self.waiting[self.number] = asyncio.get_running_loop().create_future()
        await self.socket.send(json.dumps({"id": self.number, "method": method, "params": params}))
        message = await asyncio.wait_for(answer, DEADLINE)
        assert "error" not in message, f"{method}: {message}"
        return message["result"]

    async def js(self, text):
        told = await self.call("Runtime.evaluate", expression=text, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in told, f"{text}: {told}"
        return told["result"].get("value")

    async def until(self, text):
        end = time.monotonic() + DEADLINE
        # An element is worth nothing by value.
        while not (value := await self.js(f"(value => value instanceof Node ? true : value)({text})")):
            if time.monotonic() > end:
                await self.shot("failed")
                raise AssertionError(f"never so: {text}\n{await self.js('document.body.innerText')}")
            await asyncio.sleep(0.1)
        return value

    async def press(self, *keys):
        for key in keys:
            params = {"key": key, "code": key if key in KEYS else "", "windowsVirtualKeyCode": KEYS.get(key, 0)}
            text = {"Enter": "\r"}.get(key, key if len(key) == 1 else "")
            await self.call("Input.dispatchKeyEvent", type="keyDown", **params, **({"text": text} if text else {}))
            await self.call("Input.dispatchKeyEvent", type="keyUp", **params)

    async def size(self, width, height):
        await self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)

    async def colours(self, scheme):
        await self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])

    async def shot(self, name):
        image = await self.call("Page.captureScreenshot", format="png")
        (FOLDER / f"{name}.png").write_bytes(base64.b64decode(image["data"]))

    def told(self, method):
        return [event["params"] for event in self.events if event["method"] == method]

    def complaints(self):
        """What the console says: errors, warnings, violations of the policy."""
        entries = [entry["entry"] for entry in self.told("Log.entryAdded") if entry["entry"]["level"] in ("error", "warning")]
        calls = [call for call in self.told("Runtime.consoleAPICalled") if call["type"] in ("error", "warning", "assert")]
        return entries + calls + self.told("Runtime.exceptionThrown")


async def until(what, is_so):
    end = time.monotonic() + DEADLINE
    while not is_so():
        assert time.monotonic() < end, f"waited in vain for {what}"
        await asyncio.sleep(0.1)


def say(text):
    print(text, flush=True)


async def step(name):
    say(f"STEP {name}")
    await until(name, (FOLDER / name).exists)


FOCUS = "document.activeElement"
ROW = "[...document.querySelectorAll('tbody tr')].find(row => row.textContent.includes('default/b'))"


async def graph(page):
    await page.until("document.querySelectorAll('.node').length >= 2 && document.querySelector('[data-key^=\"e:\"]')")
    assert not await page.js("location.href.includes('open')"), "the secret is not in the address any more"
    await page.js("document.getElementById('window').value = '300'; document.getElementById('window').dispatchEvent(new Event('change'))")
    figures = f"(() => {{ const cells = [...({ROW}?.cells ?? [])].map(cell => cell.textContent); return cells[4] === '{CALLS}' && cells[8] === '{REFUSED}' && cells; }})()"
    cells = await page.until(figures)
    assert cells[2] == "mutual TLS" and cells[3] == "http1", cells
    say(f"the table has {CALLS} calls, {REFUSED} of them refused, by mutual TLS")
    label = await page.js("document.querySelector('[data-key^=\"e:\"]').getAttribute('aria-label')")
    assert label.startswith("default/a calls default/b, mutual TLS, ") and f"{REFUSED} refused" in label, label
    say("the graph's edge says the same")


async def keyboard(page):
    await page.js(f"{FOCUS}.blur()")
    await page.press("Tab")
    assert await page.js(f"{FOCUS}.id") == "skip", "the skip link comes first"
    visible = await page.js(f"(() => {{ const place = {FOCUS}.getBoundingClientRect(); return place.left >= 0 && place.width > 20; }})()")
    assert visible, "and is seen"
    for _ in range(40):
        await page.press("Tab")
        if await page.js(f"{FOCUS}.dataset.key ?? ''"):
            break
    key = await page.js(f"{FOCUS}.dataset.key")
    assert key.startswith("n:"), f"Tab leads into the graph: {key}"
    stops = await page.js("document.querySelectorAll('.graph [tabindex=\"0\"]').length")
    assert stops == 1, f"the graph is one stop, not {stops}"
    await page.js("document.querySelector('[data-key=\"n:default/a\"]')?.focus()")
    await page.press("ArrowRight")
    assert (await page.js(f"{FOCUS}.dataset.key")).startswith("e:"), "from the caller to its call"
    await page.press("ArrowRight")
    assert await page.js(f"{FOCUS}.dataset.key") == "n:default/b", "and on to the callee"
    await page.press("ArrowLeft", "Enter")
    title = await page.until("document.querySelector('#panel h2')?.textContent")
    assert title == "default/a → default/b", title
    assert await page.js(f"{FOCUS}.tagName") == "H2", "the details have the focus"
    say("the keyboard leads through the graph to the details of a call")


async def explain(page):
    await page.until("document.querySelector('#panel .list .link')")
    await page.js("document.querySelector('#panel .list .link').focus()")
    await page.press("Enter")
    verdict = await page.until("document.querySelector('#panel .verdict')?.textContent")
    assert verdict.startswith("Refused: denied by rule"), verdict
    text = await page.js("document.querySelector('#panel').innerText")
    assert "keep out" in text and "img%20src=x" in text, text
    await page.shot("explained")
    say(f"a click explains a decision: {verdict}")
    await page.press("Escape")
    await page.until("document.getElementById('panel').hidden")
    await page.js("document.querySelector('[data-key^=\"e:\"]').focus()")
    await page.press("Enter")
    await page.js("(() => { const path = document.querySelector('#panel input'); path.value = '/made/up'; path.focus(); })()")
    await page.press("Enter")
    verdict = await page.until("document.querySelector('#panel .verdict')?.textContent")
    assert verdict == "Allowed: allowed by rule", verdict
    await page.press("Escape")
    say("a call that was made up is explained")


async def names(page):
    tree = (await page.call("Accessibility.getFullAXTree"))["nodes"]
    roles = {"button", "link", "textbox", "searchbox", "combobox", "checkbox", "menuitem", "meter", "dialog"}
    found = [node for node in tree if node.get("role", {}).get("value") in roles and not node.get("ignored")]
    nameless = [node for node in found if not node.get("name", {}).get("value")]
    assert len(found) > 5 and not nameless, nameless
    landmarks = {node["role"]["value"] for node in tree if not node.get("ignored") and "role" in node}
    assert {"main", "navigation", "banner", "status"} <= landmarks, landmarks
    return len(found)


async def views(page):
    total = 0
    for number, name in enumerate(["graph", "services", "alarms", "identities", "policies", "proxies", "decisions"], 1):
        await page.press(str(number))
        await page.until(f"location.hash === '#{name}' && document.querySelector('#summary').textContent.trim()")
        if name == "alarms":
            said = await page.until("document.querySelector('.alarms .said')?.textContent")
            assert "default/a was refused" in said, said
            told = await page.js("document.querySelector('.alarms .meta').textContent")
            assert "acknowledged by" in told and "<img src=x onerror=window.hurt=1>" in told, f"text stays text: {told}"
            badge = await page.js("document.getElementById('badge').textContent")
            assert badge == "1", badge
            say("an alarm is shown")
        total += await names(page)
        for scheme in ["light", "dark"]:
            await page.colours(scheme)
            dark = await page.js("matchMedia('(prefers-color-scheme: dark)').matches")
            assert dark == (scheme == "dark")
            told = await page.js(CONTRAST)
            assert told["texts"] > 10 and not told["found"], f"{name}, {scheme}: {told}"
            await page.shot(f"{name}-{scheme}")
    say(f"all of {total} parts that can be used have names, and every text stands out in both colour schemes")
    await page.press("1")
    await page.size(400, 800)
    await page.until("document.querySelector('.node')")
    wide = await page.js("document.documentElement.scrollWidth")
    assert wide <= 400, f"a narrow window scrolls down only: {wide}"
    await page.shot("narrow")
    await page.size(1440, 900)
    await page.press("?")
    await page.until("document.getElementById('help').open")
    await page.press("Escape")
    before = await page.js("getComputedStyle(document.body).backgroundColor")
    await page.press("t", "t")
    dark = await page.js("[document.documentElement.dataset.theme, getComputedStyle(document.body).backgroundColor]")
    await page.press("t")
    assert dark[0] == "dark" and await page.js("document.documentElement.dataset.theme") == "auto", dark
    say(f"the switch changes the colours: {before}, {dark[1]}")


async def idle(page):
    """What does not change is not touched: no element is made anew by an answer that says the same."""
    await page.js("(() => { window.touched = 0; new MutationObserver((all) => { window.touched += all.filter(one => one.type === 'childList' && [...one.addedNodes].some(node => node.nodeType === 1)).length; }).observe(document.getElementById('view'), {subtree: true, childList: true}); })()")
    polls = len(page.told("Network.requestWillBeSent"))
    await until("three answers", lambda: len(page.told("Network.requestWillBeSent")) >= polls + 6)
    touched = await page.js("window.touched")
    assert touched == 0, f"{touched} elements were made anew"
    statuses = {response["response"]["status"] for response in page.told("Network.responseReceived")}
    assert 304 in statuses, statuses
    say("nothing flickers")


async def main():
    page = Page()
    await page.start()
    try:
        await page.call("Page.navigate", url=ADDRESS)
        await graph(page)
        await keyboard(page)
        await explain(page)
        await views(page)
        await idle(page)
        assert page.complaints() == [], page.complaints()
        assert await page.js("window.hurt") is None, "a name was run as a script"
        images = await page.js("[...document.images].map(image => image.getAttribute('src'))")
        assert images == ["icon.svg"], images
        asked = {request["request"]["url"] for request in page.told("Network.requestWillBeSent")}
        strange = [url for url in asked if not url.startswith(ORIGIN + "/")]
        assert not strange, strange
        say(f"{len(asked)} addresses were asked for, all of them ours; nothing complained")
        await step("kill")
        await page.until("!document.getElementById('banner').hidden && document.getElementById('live').textContent === 'Not live'")
        assert "no control plane answers" in (told := await page.js("document.getElementById('banner').textContent")), told
        assert await page.js("document.querySelectorAll('.node').length") >= 2, "what was known stays"
        await page.shot("gone")
        say("the page says that the control plane is gone")
        await step("back")
        await page.until("document.getElementById('banner').hidden && document.getElementById('live').textContent === 'Live'")
        say("and recovers")
        await page.call("Page.navigate", url=ADDRESS)
        await page.until("document.body?.textContent.includes('has been used')")
        say("the address works once")
    finally:
        page.reading.cancel()
        page.process.terminate()
        page.process.wait()


asyncio.run(main())
