#!/usr/bin/env python3
"""Holds the structure of src to the table of rooms in docs/architecture.md.

A room is a directory or a file; a file belongs to the row with the longest name that leads to it. Each `use` line and
each path in the code is resolved, through re-exports, to the file that defines what it names. The check fails if an
import runs from a room to one above it in the table, if files import each other in a ring, or if a row names nothing.
The declarations and re-exports of a `mod.rs` are not imports: it is the face of its directory. Tests are left out.

    .ci/rooms.py            check
    .ci/rooms.py --figures  count rooms, imports and rings
"""
import collections
import os
import re
import sys

IDENT = r'[A-Za-z_][A-Za-z0-9_]*'
ROOT = 'crate'

def strip_comments(text):
    """Comments and string contents become blanks of the same length; lines stay."""
    out, i, n = [], 0, len(text)
    while i < n:
        two = text[i:i+2]
        if two == '//':
            j = text.find('\n', i); j = n if j < 0 else j
            out.append(' ' * (j - i)); i = j
        elif two == '/*':
            j = text.find('*/', i); j = n if j < 0 else j + 2
            out.append(re.sub(r'[^\n]', ' ', text[i:j])); i = j
        elif text[i] == '"':
            j = i + 1
            while j < n and text[j] != '"':
                j += 2 if text[j] == '\\' else 1
            j += 1
            out.append('"' + re.sub(r'[^\n]', ' ', text[i+1:j-1]) + '"'); i = j
        elif text[i] == 'r' and (m := re.match(r'r(#*)"', text[i:])) and not (i and (text[i-1].isalnum() or text[i-1] == '_')):
            end = '"' + m.group(1)
            j = text.find(end, i + len(m.group(0))); j = n if j < 0 else j + len(end)
            out.append(re.sub(r'[^\n]', ' ', text[i:j])); i = j
        elif text[i] == "'" and (m := re.match(r"'(\\.[^']*|[^\\'])'", text[i:])):
            out.append("' '" + ' ' * (len(m.group(0)) - 3)); i += len(m.group(0))
        else:
            out.append(text[i]); i += 1
    return ''.join(out)

class File:
    def __init__(self, path, module, text):
        self.path, self.module, self.text = path, module, text
        self.code = strip_comments(text)

def load(src='src', root='crate'):
    files = {}
    for base, _, names in os.walk(src):
        for name in sorted(names):
            if not name.endswith('.rs'): continue
            path = os.path.join(base, name)
            rel = os.path.relpath(path, src)[:-3].split(os.sep)
            if rel[-1] in ('mod',): rel = rel[:-1]
            if rel == ['lib']: rel = []
            module = (root, *rel)
            files[module] = File(path, module, open(path).read())
    return files

USE = re.compile(r'(?m)^(?P<ind>[ \t]*)(?P<vis>pub(?:\([^)]*\))?\s+)?use\s+(?P<tree>[^;]+);')

def leaves(tree):
    """Flattens `a::{b, c::{d, self}, e as f}` to ([segments], alias)."""
    tree = tree.strip()
    out = []
    def walk(s, prefix):
        s = s.strip()
        if not s: return
        k = s.find('{')
        if k < 0:
            alias = None
            if m := re.match(r'(.*?)\s+as\s+(\w+)$', s, re.S): s, alias = m.group(1).strip(), m.group(2)
            segs = [x.strip() for x in s.split('::')]
            if segs[-1] == 'self' and (prefix or len(segs) > 1): segs = segs[:-1]
            out.append((prefix + segs, alias)); return
        head = s[:k].strip()
        segs = [x.strip() for x in head.split('::') if x.strip()]
        body = s[k+1:s.rfind('}')]
        depth, cur = 0, ''
        for c in body:
            if c == '{': depth += 1
            if c == '}': depth -= 1
            if c == ',' and depth == 0: walk(cur, prefix + segs); cur = ''
            else: cur += c
        walk(cur, prefix + segs)
    walk(tree, [])
    return out

def inner_depth(code):
    """For each line, how many inline modules it stands in (by indentation)."""
    depths, stack = [], []
    for line in code.split('\n'):
        if m := re.match(r'^(\s*)(?:pub(?:\([^)]*\))?\s+)?mod\s+\w+\s*\{', line):
            depths.append(len(stack)); stack.append(m.group(1)); 
            if line.rstrip().endswith('}'): stack.pop()
            continue
        if stack and line.rstrip() == stack[-1] + '}': stack.pop()
        depths.append(len(stack))
    return depths

def absolute(file, segs, depth, files):
    """Segments to an absolute path, or None for another crate's."""
    if segs[0] in ('crate', 's3a'): return ('crate', *segs[1:])
    here = list(file.module) + ['#'] * depth
    if segs[0] in ('super', 'self'):
        i = 0
        while i < len(segs) and segs[i] in ('super', 'self'):
            if segs[i] == 'super': here.pop()
            i += 1
        here = [x for x in here if x != '#'] if '#' not in here else here
        if '#' in here: return None
        return (*here, *segs[i:])
    if depth == 0 and (*file.module, segs[0]) in files: return (*file.module, *segs)
    return None

def exports(files):
    """module -> name -> absolute path, of all `pub use`; and globs."""
    table, globs = collections.defaultdict(dict), collections.defaultdict(list)
    for f in files.values():
        deps = inner_depth(f.code)
        for m in USE.finditer(f.code):
            line = f.code.count('\n', 0, m.start('tree'))
            if deps[line]: continue
            for segs, alias in leaves(m.group('tree')):
                a = absolute(f, segs, 0, files)
                if not a: continue
                if a[-1] == '*': globs[f.module].append(a[:-1])
                elif m.group('vis'): table[f.module][alias or a[-1]] = a
    return table, globs

def resolve(path, files, table, globs=None, seen=()):
    """Absolute path -> (module, rest) of the file that defines it."""
    k = len(path)
    while k and path[:k] not in files: k -= 1
    module, rest = path[:k], path[k:]
    if rest and rest[0] in table.get(module, {}) and (module, rest[0]) not in seen:
        return resolve((*table[module][rest[0]], *rest[1:]), files, table, globs, (*seen, (module, rest[0])))
    return module, rest

INLINE = re.compile(r'(?<![\w:])((?:crate|super|self|s3a)(?:::' + IDENT + r')+)')
def is_test(file):
    return file.module[-1].endswith('tests')

def imports(files):
    table, globs = exports(files)
    edges = collections.defaultdict(set)
    for f in files.values():
        if is_test(f): continue
        deps = inner_depth(f.code)
        def add(segs, line):
            if deps[line]: return
            a = absolute(f, segs, 0, files)
            if a is None: return
            if a[-1] == '*': a = a[:-1]
            module, rest = resolve(a, files, table)
            if module != f.module: edges[f.module].add(module)
        body = f.code
        for m in USE.finditer(f.code):
            line = f.code.count('\n', 0, m.start('tree'))
            for segs, alias in leaves(m.group('tree')): add(segs, line)
        body = USE.sub(lambda m: re.sub(r'[^\n]', ' ', m.group(0)), f.code)
        for m in INLINE.finditer(body):
            add(m.group(1).split('::'), body.count('\n', 0, m.start()))
        # `child::item` in the code of a face
        for child in {c[-1] for c in files if c[:-1] == f.module}:
            for m in re.finditer(r'(?<![\w:])' + child + r'::', body):
                add([*f.module, child], body.count('\n', 0, m.start()))
    return edges

def sccs(edges, nodes):
    index, low, on, stack, out, n = {}, {}, set(), [], [], [0]
    sys.setrecursionlimit(10000)
    def go(v):
        index[v] = low[v] = n[0]; n[0] += 1; stack.append(v); on.add(v)
        for w in edges.get(v, ()):
            if w not in index: go(w); low[v] = min(low[v], low[w])
            elif w in on: low[v] = min(low[v], index[w])
        if low[v] == index[v]:
            c = []
            while True:
                w = stack.pop(); on.discard(w); c.append(w)
                if w == v: break
            if len(c) > 1: out.append(c)
    for v in nodes:
        if v not in index: go(v)
    return out


def table_of(path):
    """The names in the first column of the table of rooms, from the top down."""
    rows = [line.split('|')[1] for line in open(path) if line.startswith('| `')]
    return [name for row in rows for name in re.findall(r'`([^`]+)`', row)]


def main():
    files = load()
    edges = imports(files)
    rows = table_of('docs/architecture.md')
    path_of = {m: f.path[len('src/'):] for m, f in files.items()}
    faces = {m for m, p in path_of.items() if p.endswith('mod.rs') or p == 'lib.rs'}

    def room(module):
        path = path_of[module]
        fits = [r for r in rows if path == r + '.rs' or path.startswith(r + '/')]
        return max(fits, key=len, default=None)

    def name(module):
        return path_of[module]

    problems = []
    rooms = {m: room(m) for m in files}
    problems += [f'{name(m)} belongs to no row of the table' for m, r in rooms.items() if r is None]
    problems += [f'the row `{r}` names nothing' for r in rows if r not in rooms.values()]
    problems += [f'the row `{r}` stands twice' for r in set(rows) if rows.count(r) > 1]
    place = {r: i for i, r in enumerate(rows)}
    arrows = set()
    for module, used in edges.items():
        for other in used:
            if module in faces and other[:len(module)] == module:
                continue
            a, b = rooms[module], rooms[other]
            if a is None or b is None or a == b:
                continue
            arrows.add((a, b))
            if place[a] > place[b]:
                problems.append(f'{name(module)} imports {name(other)}, which stands above it: {a} -> {b}')
    rings = sccs(edges, files)
    problems += ['ring of files: ' + ', '.join(name(m) for m in sorted(ring)) for ring in rings]
    if '--figures' in sys.argv:
        print(f'{len(files)} files, {len(rows)} rooms, {len(arrows)} arrows between rooms, {len(rings)} rings')
    for problem in sorted(problems):
        print(problem)
    if problems:
        sys.exit(1)
    print('rooms: every import points down, and no files import each other in a ring')


if __name__ == '__main__':
    main()
