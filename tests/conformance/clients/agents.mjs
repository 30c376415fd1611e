// Codex and Claude Code: each does a whole task, by tools of its own, with nothing of its user's.
import { execFile } from 'node:child_process'
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'

import { serve } from './contract.mjs'

const programs = join(import.meta.dirname, 'node_modules/.bin')
const lines = (text) => text.split('\n').filter((line) => line.startsWith('{')).map((line) => JSON.parse(line))

// Resolves to what it has printed. Its home is its folder too; whom it asks but us does not answer.
function run(program, given, home, more) {
  const env = { PATH: `${programs}:/usr/bin:/bin`, HOME: home, HTTPS_PROXY: 'http://127.0.0.1:9', NO_PROXY: '127.0.0.1', ...more }
  return new Promise((resolve, reject) => {
    const why = (error, err) => new Error(error.killed ? 'it is not done after 50 s' : `${program}: ${err.slice(-500)}`)
    const told = (error, out, err) => (error ? reject(why(error, err)) : resolve(out))
    execFile(join(programs, program), given, { cwd: home, env, timeout: 50_000 }, told).stdin.end()
  })
}

const agents = {
  async claude(ask, home) {
    const env = {
      ANTHROPIC_BASE_URL: ask.url,
      ANTHROPIC_API_KEY: ask.key,
      ANTHROPIC_MODEL: ask.model,
      ANTHROPIC_DEFAULT_HAIKU_MODEL: ask.model,
      CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC: '1',
    }
    const given = ['--bare', '--tools', 'Read', '--output-format', 'stream-json', '--verbose', '-p', ask.prompt]
    const told = lines(await run('claude', given, home, env))
    const said = told.filter(({ type }) => type === 'assistant').flatMap(({ message }) => message.content)
    const call = said.find(({ type }) => type === 'tool_use')
    const { result } = told.find(({ type }) => type === 'result')
    return { name: call.name, arguments: call.input, text: result }
  },

  // What it prints tells only of the tools that could do their work: of all calls tells what it keeps of the session.
  async codex(ask, home) {
    const provider = { name: '"Hermes"', base_url: `"${ask.url}/v1"`, wire_api: '"responses"', env_key: '"HERMES_KEY"' }
    const config = ['model_provider = "hermes"', `model = "${ask.model}"`, '[model_providers.hermes]']
    config.push(...Object.entries(provider).map((pair) => pair.join(' = ')))
    writeFileSync(join(home, 'config.toml'), config.join('\n'))
    const given = ['exec', '--skip-git-repo-check', '--sandbox', 'read-only', '--disable', 'multi_agent', ask.prompt]
    const text = await run('codex', given, home, { CODEX_HOME: home, HERMES_KEY: ask.key })
    const kept = readdirSync(join(home, 'sessions'), { recursive: true }).find((name) => name.endsWith('.jsonl'))
    const items = lines(readFileSync(join(home, 'sessions', kept), 'utf8')).map(({ payload }) => payload)
    const call = items.find(({ type }) => type === 'function_call')
    return { name: call.name, arguments: JSON.parse(call.arguments), text }
  },
}

async function tool(ask) {
  const home = mkdtempSync(join(tmpdir(), 'agent-'))
  try {
    return await agents[process.argv[2]](ask, home)
  } finally {
    rmSync(home, { recursive: true, force: true })
  }
}

await serve({ tool, tool_streamed: tool })
