"""page"""
def write_page(rows, out):
    return out
