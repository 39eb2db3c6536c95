// Reads the messages whose paths come on stdin with a parser of npm; writes a JSON line for each, null where it throws.
// Arguments: the name of the package, and the folder that it is in.
import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';

const [name, modules] = process.argv.slice(2);
const require = createRequire(pathToFileURL(join(modules, 'none.js')));

const addresses = found => (found ?? []).flatMap(entry => entry.group ? addresses(entry.group) : [entry.address]);
const moment = date => { const parsed = new Date(date ?? NaN); return isNaN(parsed) ? null : parsed.toISOString(); };

async function byPostalMime(raw) {
    const { default: PostalMime } = await import(pathToFileURL(require.resolve('postal-mime')).href);
    const found = await (PostalMime.default ?? PostalMime).parse(raw, { forceRfc822Attachments: true });
    return {
        subject: found.subject ?? '',
        from: addresses(found.from ? [found.from] : []),
        to: addresses(found.to),
        date: moment(found.date),
        text: found.text ?? '',
        html: found.html ?? '',
        attachments: found.attachments.map(part => [part.mimeType, part.filename]),
    };
}

async function byMailparser(raw) {
    const found = await require('mailparser').simpleParser(raw, { skipHtmlToText: true, skipTextLinks: true, skipImageLinks: true });
    const list = field => [field ?? []].flat().flatMap(one => addresses(one.value));
    return {
        subject: found.subject ?? '',
        from: list(found.from),
        to: list(found.to),
        date: found.headers.has('date') ? moment(found.date) : null,
        text: found.text ?? '',
        html: found.html || '',
        attachments: found.attachments.map(part => [part.contentType, part.filename ?? null]),
    };
}

const read = { 'postal-mime': byPostalMime, mailparser: byMailparser }[name];
for (const path of readFileSync(0, 'utf8').split('\n')) {
    let found = null;
    try {
        found = await read(readFileSync(path));
    } catch { /* null says that it threw */ }
    console.log(JSON.stringify(found));
}
