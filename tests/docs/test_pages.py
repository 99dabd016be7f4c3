"""The pages of examples/ and of the tutorial, in two windows of a real browser."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from selenium.webdriver import Chrome, ChromeOptions
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.support.wait import WebDriverWait

from programs import listening, running
from support import free_port

pytestmark = pytest.mark.parametrize("backend", ["asyncio", "trio"])


class Windows:
    """Two windows of a browser that show the same page."""

    def __init__(self, browser: Chrome, uri: str) -> None:
        self.browser = browser
        browser.get(uri)
        self.names = [browser.current_window_handle]
        browser.switch_to.new_window("window")
        browser.get(uri)
        self.names.append(browser.current_window_handle)

    def show(self, number: int) -> None:
        self.browser.switch_to.window(self.names[number])

    def text(self, number: int, name: str) -> str:
        """What an element shows, looked up in one step: a page may replace it at any time."""
        self.show(number)
        script = "return document.getElementById(arguments[0]).innerText"
        return str(self.browser.execute_script(script, name))

    def wait(self, number: int, name: str, text: str) -> None:
        """Wait until an element shows a text."""
        self.show(number)
        WebDriverWait(self.browser, 20).until(
            lambda _: self.text(number, name) == text,
            f"{name} of window {number} shows {self.text(number, name)!r}, not {text!r}",
        )

    def click(self, number: int, selector: str) -> None:
        self.show(number)
        self.browser.find_element(By.CSS_SELECTOR, selector).click()

    def type(self, number: int, name: str, text: str) -> None:
        self.show(number)
        self.browser.find_element(By.ID, name).send_keys(text)


@pytest.fixture(scope="module")
def chrome() -> Iterator[Chrome]:
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if chromium is None or driver is None:
        pytest.skip("needs chromium and chromedriver (Debian: chromium-driver)")
    options = ChromeOptions()
    options.binary_location = chromium
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"):
        options.add_argument(argument)
    browser = Chrome(options, Service(driver))
    yield browser
    browser.quit()


@pytest.fixture
def browser(chrome: Chrome) -> Iterator[Chrome]:
    """The browser with one empty window, before and after."""
    yield chrome
    for name in chrome.window_handles[1:]:
        chrome.switch_to.window(name)
        chrome.close()
    chrome.switch_to.window(chrome.window_handles[0])
    chrome.get("about:blank")


def page_of(uri: str) -> str:
    return uri.replace("ws://", "http://")


def test_the_counter_is_in_step_in_two_browsers(browser: Chrome, backend: str) -> None:
    with running("counter", backend=backend) as server:
        windows = Windows(browser, page_of(server.uri))
        for number in (0, 1):
            windows.wait(number, "value", "0")
            windows.wait(number, "users", "2")
        windows.click(0, "#plus")
        windows.click(0, "#plus")
        windows.wait(1, "value", "2")
        windows.click(1, "#minus")
        for number in (0, 1):
            windows.wait(number, "value", "1")
        windows.show(1)
        browser.close()
        windows.wait(0, "users", "1")


def test_the_poll_of_the_tutorial_shows_votes_to_all(browser: Chrome, backend: str) -> None:
    poll = Path(__file__).parent.parent.parent / "docs" / "start" / "poll_4.py"
    port = free_port()
    with listening(str(poll), "--port", str(port), "--backend", backend, port=port):
        windows = Windows(browser, f"http://localhost:{port}/")
        for number in (0, 1):
            windows.wait(number, "status", "connected")
            windows.wait(number, "tea", "tea: 0")
        windows.click(0, "#tea")
        for number in (0, 1):
            windows.wait(number, "tea", "tea: 1")


def test_two_browsers_see_the_time(browser: Chrome, backend: str) -> None:
    with running("time_server", backend=backend) as server:
        windows = Windows(browser, page_of(server.uri))
        for number in (0, 1):
            windows.show(number)
            WebDriverWait(browser, 20).until(
                lambda _: len(browser.find_elements(By.CSS_SELECTOR, "#times li")) >= 2
            )
            times = windows.text(number, "times").split("\n")
            assert all(time.startswith("20") for time in times)
            assert times == sorted(times)


def test_two_browsers_chat_in_a_room(browser: Chrome, backend: str) -> None:
    with running("chat", backend=backend) as server:
        windows = Windows(browser, page_of(server.uri))
        for number, name in enumerate(("Ada", "Bob")):
            windows.type(number, "name", name)
            windows.type(number, "room", "garden")
            windows.click(number, "#join button")
        for number in (0, 1):
            windows.wait(number, "members", "Ada, Bob")
        windows.type(0, "text", "<b>hello</b>")
        windows.click(0, "#talk button")
        for number in (0, 1):
            windows.wait(number, "messages", "Ada: <b>hello</b>")
        server.process.terminate()
        for number in (0, 1):
            windows.wait(number, "status", "closed with 1001")
