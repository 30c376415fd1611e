// openai-node.
import OpenAI from 'openai'

import { knobs, leaving, serve } from './contract.mjs'

const client = (ask) => new OpenAI({ baseURL: `${ask.url}/v1`, apiKey: ask.key, ...knobs(ask) })
const asked = (ask) => ({ model: ask.model, messages: [{ role: 'user', content: ask.prompt }], ...ask.extra })
const said = (ask, more = {}) => client(ask).chat.completions.create({ ...asked(ask), ...more }, { signal: leaving(ask) })
const tools = (ask) => [{ type: 'function', function: ask.tool }]
const called = ({ name, arguments: given }) => ({ name, arguments: JSON.parse(given) })

async function chat(ask) {
  const answer = await said(ask)
  return { text: answer.choices[0].message.content, tokens: answer.usage.completion_tokens }
}

async function* pieces(ask) {
  for await (const chunk of await said(ask, { stream: true })) yield chunk.choices[0]?.delta.content
}

async function tool(ask) {
  const { message } = (await said(ask, { tools: tools(ask) })).choices[0]
  const [call] = message.tool_calls
  const result = { role: 'tool', tool_call_id: call.id, content: ask.result }
  const after = await said(ask, { tools: tools(ask), messages: [...asked(ask).messages, message, result] })
  return { ...called(call.function), text: after.choices[0].message.content }
}

// By the SDK's own accumulator.
async function tool_streamed(ask) {
  const stream = client(ask).chat.completions.stream({ ...asked(ask), tools: tools(ask) })
  const [call] = (await stream.finalMessage()).tool_calls
  return called(call.function)
}

async function schema(ask) {
  const response_format = { type: 'json_schema', json_schema: { name: 'city', strict: true, schema: ask.schema } }
  const answer = await client(ask).chat.completions.parse({ ...asked(ask), response_format })
  return { value: JSON.parse(answer.choices[0].message.content) }
}

async function image(ask) {
  const seen = { type: 'image_url', image_url: { url: `data:image/png;base64,${ask.image}` } }
  const messages = [{ role: 'user', content: [{ type: 'text', text: ask.prompt }, seen] }]
  return { text: (await said(ask, { messages })).choices[0].message.content }
}

async function embeddings(ask) {
  const made = await client(ask).embeddings.create({ model: ask.model, input: ask.texts })
  return { vectors: made.data.map((item) => item.embedding) }
}

async function thoughts(ask) {
  const { message } = (await said(ask, { reasoning_effort: 'medium' })).choices[0]
  return { thoughts: message.reasoning_content, text: message.content }
}

await serve({ chat, pieces, tool, tool_streamed, schema, image, embeddings, thoughts })
