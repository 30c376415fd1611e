// What all scripts for Node share: contract.py says how it goes.
import { createInterface } from 'node:readline'

export async function serve(script) {
  console.log = console.error // what a library prints is none of the facts
  const session = new Session(script)
  for await (const line of createInterface({ input: process.stdin }))
    process.stdout.write(JSON.stringify(await session.do(JSON.parse(line))) + '\n')
}

class Session {
  constructor(script) {
    this.script = { ...script, stream: this.stream, hold: this.hold, leave: this.leave }
  }

  async do(task) {
    try {
      return await this.script[task.do].call(this, task)
    } catch (error) {
      return raised(error)
    }
  }

  async stream(ask) {
    const pieces = []
    for await (const piece of this.script.pieces(ask)) if (piece) pieces.push(piece)
    return { pieces }
  }

  async hold(ask) {
    this.held = this.script.pieces(ask)
    const pieces = []
    while (pieces.length < 2) {
      const { value, done } = await this.held.next()
      if (done) throw new Error('the stream has ended')
      if (value) pieces.push(value)
    }
    return { pieces }
  }

  async leave() {
    await this.held.return()
    return {}
  }
}

function raised(error) {
  const kinds = [error.name]
  for (let kind = Object.getPrototypeOf(error); kind; kind = Object.getPrototypeOf(kind)) kinds.push(kind.constructor.name)
  return { raised: kinds, message: error.message, status: error.status ?? error.status_code ?? error.statusCode ?? null }
}

// After which time the client is to leave, where that is not left to it.
export const leaving = (ask) => (ask.patience_s === null ? undefined : AbortSignal.timeout(1000 * ask.patience_s))

// How often the client is to try again, likewise.
export const knobs = (ask) => (ask.retries === null ? {} : { maxRetries: ask.retries })
