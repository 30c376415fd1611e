// The AI SDK, by three of its providers.
import { embedMany, generateText, jsonSchema, Output, stepCountIs, streamText, tool as makeTool } from 'ai'

import { knobs, leaving, serve } from './contract.mjs'

const kind = process.argv[2]

const make = Object.entries(await import(`@ai-sdk/${kind.replace('-responses', '')}`)).find(([name]) => name.startsWith('create'))[1]
const compatible = { name: 'hermes', supportsStructuredOutputs: true, includeUsage: true }
const provider = (ask) =>
  make({ baseURL: `${ask.url}/v1`, apiKey: ask.key, ...(kind === 'openai-compatible' ? compatible : {}) })

function asked(ask) {
  const model = kind === 'openai' ? provider(ask).chat(ask.model) : provider(ask)(ask.model)
  return { model, prompt: ask.prompt, maxOutputTokens: ask.max_tokens, ...ask.extra, ...knobs(ask) }
}

const tools = (ask) => ({
  [ask.tool.name]: makeTool({
    description: ask.tool.description,
    inputSchema: jsonSchema(ask.tool.parameters),
    execute: async () => ask.result,
  }),
})
const called = ([call]) => ({ name: call.toolName, arguments: call.input })

async function chat(ask) {
  const { text, usage } = await generateText({ ...asked(ask), abortSignal: leaving(ask) })
  return { text, tokens: usage.outputTokens }
}

async function* pieces(ask) {
  const leaving = new AbortController()
  const { fullStream } = streamText({ ...asked(ask), abortSignal: leaving.signal, onError: () => {} })
  try {
    for await (const part of fullStream) {
      if (part.type === 'error') throw part.error
      if (part.type === 'text-delta') yield part.text
    }
  } finally {
    leaving.abort()
  }
}

async function tool(ask) {
  const { steps, text } = await generateText({ ...asked(ask), tools: tools(ask), stopWhen: stepCountIs(2) })
  return { ...called(steps[0].toolCalls), text }
}

async function tool_streamed(ask) {
  return called(await streamText({ ...asked(ask), tools: tools(ask) }).toolCalls)
}

async function schema(ask) {
  const { output } = await generateText({ ...asked(ask), output: Output.object({ schema: jsonSchema(ask.schema) }) })
  return { value: output }
}

async function image(ask) {
  const seen = { type: 'file', mediaType: 'image/png', data: ask.image }
  const messages = [{ role: 'user', content: [{ type: 'text', text: ask.prompt }, seen] }]
  const { prompt, ...rest } = asked(ask)
  return { text: (await generateText({ ...rest, messages })).text }
}

async function embeddings(ask) {
  const made = provider(ask)
  const model = kind === 'openai' ? made.embedding(ask.model) : made.embeddingModel(ask.model)
  return { vectors: (await embedMany({ model, values: ask.texts })).embeddings }
}

async function thoughts(ask) {
  const thinking = { thinking: { type: 'enabled', budgetTokens: 1024 } }
  const { reasoningText, text } = await generateText({ ...asked(ask), providerOptions: { anthropic: thinking } })
  return { thoughts: reasoningText, text }
}

await serve({ chat, pieces, tool, tool_streamed, schema, image, embeddings, thoughts })
