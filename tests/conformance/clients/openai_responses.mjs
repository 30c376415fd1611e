// openai-node, by its newer API.
import OpenAI from 'openai'

import { knobs, leaving, serve } from './contract.mjs'

const api = (ask) => new OpenAI({ baseURL: `${ask.url}/v1`, apiKey: ask.key, ...knobs(ask) }).responses
const asked = (ask) => ({ model: ask.model, input: [{ role: 'user', content: ask.prompt }], ...ask.extra })
const said = (ask, more = {}) => api(ask).create({ ...asked(ask), ...more }, { signal: leaving(ask) })
const tools = (ask) => [{ type: 'function', strict: false, ...ask.tool }]
const find = (answer, type) => answer.output.find((item) => item.type === type)
const called = ({ name, arguments: given }) => ({ name, arguments: JSON.parse(given) })

async function chat(ask) {
  const answer = await said(ask)
  return { text: answer.output_text, tokens: answer.usage.output_tokens }
}

async function* pieces(ask) {
  for await (const event of await said(ask, { stream: true })) {
    if (event.type === 'response.output_text.delta') yield event.delta
    // What create() gives are events as they come: to raise is left to who reads them.
    if (event.type === 'response.failed') throw new OpenAI.APIError(undefined, event.response.error, undefined, undefined)
  }
}

async function tool(ask) {
  const answer = await said(ask, { tools: tools(ask) })
  const call = find(answer, 'function_call')
  const result = { type: 'function_call_output', call_id: call.call_id, output: ask.result }
  const after = await said(ask, { tools: tools(ask), input: [...asked(ask).input, ...answer.output, result] })
  return { ...called(call), text: after.output_text }
}

// By the SDK's own accumulator.
async function tool_streamed(ask) {
  const stream = api(ask).stream({ ...asked(ask), tools: tools(ask) })
  return called(find(await stream.finalResponse(), 'function_call'))
}

async function schema(ask) {
  const text = { format: { type: 'json_schema', name: 'city', strict: true, schema: ask.schema } }
  return { value: (await api(ask).parse({ ...asked(ask), text })).output_parsed }
}

async function image(ask) {
  const seen = { type: 'input_image', detail: 'auto', image_url: `data:image/png;base64,${ask.image}` }
  const input = [{ role: 'user', content: [{ type: 'input_text', text: ask.prompt }, seen] }]
  return { text: (await said(ask, { input })).output_text }
}

async function thoughts(ask) {
  const answer = await said(ask, { reasoning: { effort: 'medium', summary: 'auto' } })
  const { content, summary } = find(answer, 'reasoning')
  return { thoughts: [...(content ?? []), ...summary].map((part) => part.text).join(''), text: answer.output_text }
}

await serve({ chat, pieces, tool, tool_streamed, schema, image, thoughts })
