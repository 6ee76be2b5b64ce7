"""What tests of pages share: names that are HTML, and what is read in a browser."""

TITLE = "<script>alert(1)</script>"
NAME = "</script><img src=x onerror=alert(1)>"


def text(browser, selector):
    return [found.get_property("textContent") for found in browser.find_elements("css selector", selector)]
