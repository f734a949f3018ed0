// github.mjs FILE says what GitHub's own parser has against a workflow, and exits 1.
import {register} from 'node:module';
import {readFileSync} from 'node:fs';

// The parser imports JSON without saying so, which its bundlers allow and node does not.
register('data:text/javascript,' + encodeURIComponent(`import {readFile} from 'node:fs/promises';
export const load = async (url, context, next) => url.endsWith('.json')
  ? {format: 'module', shortCircuit: true, source: 'export default ' + await readFile(new URL(url))} : next(url, context);`));

const {parseWorkflow, NoOperationTraceWriter} = await import('@actions/workflow-parser');
const [file] = process.argv.slice(2);
const parsed = parseWorkflow({name: file, content: readFileSync(file, 'utf8')}, new NoOperationTraceWriter());
const errors = parsed.context.errors.getErrors();
errors.forEach(e => console.log(e.message));
process.exit(errors.length > 0 ? 1 : 0);
