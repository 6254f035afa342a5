def measure(setup):
    return []
memory=cpu_and_bytes=measure
def printed(s, f):
    return ""
