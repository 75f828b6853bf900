"""Uses the chat page in Chromium as a person would: `page.py URL KEY BROWSER`, the browser's executable."""

import re
import sys
import time
import urllib.error
import urllib.request

from playwright.sync_api import sync_playwright

from cases import SYSTEM, refused, require, require_equal

WAIT = 120_000  # milliseconds

# Tokens of an answer that comes for longer than a busy machine takes to look at it.
LONG_ANSWER = 500


class Page:
    """The page with what went wrong on it and what it asked for."""

    def __init__(self, browser, url, key):
        context = browser.new_context(http_credentials={"username": "person", "password": key})
        context.set_default_timeout(WAIT)
        self.url, self.wrong, self.asked = url, [], []
        self.page = context.new_page()
        self.page.on("console", lambda m: self.wrong.append(m.text) if m.type in ("error", "warning") else None)
        self.page.on("pageerror", lambda error: self.wrong.append(str(error)))
        self.page.on("request", lambda request: self.asked.append(request.url))
        require_equal(self.page.goto(f"{url}/").status, 200, "the page's status")
        self.page.locator("#model option").first.wait_for(state="attached")

    def set(self, system, most_tokens):
        self.page.click("#settings-toggle")
        self.page.fill("#system", system)
        self.page.fill("#temperature", "0")
        self.page.fill("#max-tokens", str(most_tokens))
        self.page.click("#settings-toggle")

    def send(self, text):
        """Sends a message; gives the answer's place."""
        self.page.fill("#input", text)
        self.page.press("#input", "Enter")
        return self.page.locator("article.assistant").last

    def while_it_comes(self, answer):
        """What of an answer is there while more is coming."""
        answer.locator(".body:not(:empty)").wait_for()
        require_equal(self.page.get_attribute("#log", "aria-busy"), "true", "whether more is coming")
        return answer.locator(".body").inner_text()

    def stats(self, answer):
        """What is said of an answer when it is complete."""
        return answer.locator(".stats").inner_text()


def streams(page):
    answer = page.send("Tell me a long story about a lighthouse.")
    begun = page.while_it_comes(answer)
    stats = page.stats(answer)
    whole = answer.locator(".body").inner_text()
    require(begun and len(begun) < len(whole), "an answer that grows", (begun, whole))
    require(re.search(r"\d+ tokens · \d+\.\d tokens/s", stats), "tokens and their rate", stats)


def finds_its_prompt(page):
    stats = page.stats(page.send("And what is it called?"))
    cached = re.search(r"(\d+) prompt tokens, (\d+) cached", stats)
    require(cached and int(cached[2]) > 64, "most of the prompt in the cache", stats)


def stops(page, key):
    page.page.click("#settings-toggle")
    page.page.fill("#max-tokens", "2000")
    answer = page.send("Count from one to a thousand in words.")
    page.while_it_comes(answer)
    page.page.click("#stop")
    require("stopped" in page.stats(answer), "a stopped answer", page.stats(answer))
    require(page.page.is_visible("#send"), "the send button", "none")
    for _ in range(50):
        if running(page.url, key) == 0:
            return
        time.sleep(0.1)
    require(False, "no request that still runs", running(page.url, key))


def running(url, key):
    """Requests that the server computes now."""
    request = urllib.request.Request(f"{url}/metrics", headers={"Authorization": f"Bearer {key}"})
    text = urllib.request.urlopen(request, timeout=10).read().decode()
    found = re.findall(r"^moesaic:num_requests_running(?:\{[^}]*\})? (\S+)$", text, re.MULTILINE)
    require(found, "requests that run among the metrics", text[:300])
    return sum(float(value) for value in found)


def keeps_strangers_out(url):
    error = refused(urllib.error.HTTPError, lambda: urllib.request.urlopen(f"{url}/", timeout=10))
    require_equal(error.code, 401, "the status without a key")


def main():
    url, key, executable = sys.argv[1:]
    # A sandbox needs rights that root in a container has not; the page is this server's own.
    options = {"executable_path": executable, "headless": True, "args": ["--no-sandbox"]}
    with sync_playwright() as driver:
        browser = driver.chromium.launch(**options)
        page = Page(browser, url, key)
        page.set(SYSTEM, LONG_ANSWER)
        checks = [(streams, page), (finds_its_prompt, page), (stops, page, key), (keeps_strangers_out, url)]
        for check, *arguments in checks:
            check(*arguments)
            print(f"chat page {check.__name__.replace('_', ' ')}")
        require_equal(page.wrong, [], "errors on the page")
        elsewhere = [address for address in page.asked if not address.startswith((f"{url}/", "data:"))]
        require_equal(elsewhere, [], "requests to other places")
        browser.close()
    print(f"{len(checks)} passed, 0 failed")


if __name__ == "__main__":
    main()
