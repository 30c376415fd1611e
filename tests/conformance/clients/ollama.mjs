// ollama-js.
import { Ollama } from 'ollama'

import { leaving, serve } from './contract.mjs'

// By itself it ends nothing but streams: a whole answer is left by the fetch that it is given.
const fetching = (ask) => (leaving(ask) ? { fetch: (url, init) => fetch(url, { ...init, signal: leaving(ask) }) } : {})
const client = (ask) => new Ollama({ host: ask.url, headers: { authorization: `Bearer ${ask.key}` }, ...fetching(ask) })
const asked = (ask) => ({ model: ask.model, messages: [{ role: 'user', content: ask.prompt }], options: ask.extra })
const said = (ask, more = {}) => client(ask).chat({ ...asked(ask), ...more })
const tools = (ask) => [{ type: 'function', function: ask.tool }]
const called = (call) => ({ name: call.function.name, arguments: call.function.arguments })

async function chat(ask) {
  const answer = await said(ask)
  return { text: answer.message.content, tokens: answer.eval_count }
}

async function* pieces(ask) {
  const stream = await said(ask, { stream: true })
  try {
    for await (const part of stream) yield part.message.content
  } finally {
    stream.abort() // leaving the loop alone does not end it
  }
}

async function tool(ask) {
  const { message } = await said(ask, { tools: tools(ask) })
  const [call] = message.tool_calls
  const result = { role: 'tool', tool_name: call.function.name, content: ask.result }
  const after = await said(ask, { tools: tools(ask), messages: [...asked(ask).messages, message, result] })
  return { ...called(call), text: after.message.content }
}

async function tool_streamed(ask) {
  const calls = []
  for await (const part of await said(ask, { tools: tools(ask), stream: true })) calls.push(...(part.message.tool_calls ?? []))
  return called(calls[0])
}

async function schema(ask) {
  return { value: JSON.parse((await said(ask, { format: ask.schema })).message.content) }
}

async function image(ask) {
  const messages = [{ role: 'user', content: ask.prompt, images: [ask.image] }]
  return { text: (await said(ask, { messages })).message.content }
}

async function embeddings(ask) {
  return { vectors: (await client(ask).embed({ model: ask.model, input: ask.texts })).embeddings }
}

async function thoughts(ask) {
  const { message } = await said(ask, { think: true })
  return { thoughts: message.thinking, text: message.content }
}

await serve({ chat, pieces, tool, tool_streamed, schema, image, embeddings, thoughts })
