/** The sessions in which a trainer evaluates and predicts, with the parameters of the moment. */
import type { Model } from '../../graph/ir.js';
import { providerOf } from '../../ops/core/provider.js';
import type { TrainingDescription } from '../../passes/file/description.js';
import {
  type EvaluationModel,
  evaluationModel,
  injectedPredictionModel,
} from '../../passes/run/evaluation-model.js';
import { layOut } from '../cpu.js';
import { asFeeds, type Feeds, Session, type SessionOptions, shapesIn } from '../session.js';

export class Inference {
  #evaluator: { session: Session; samples: EvaluationModel['samples'] } | undefined;
  #predictor: Session | undefined;

  constructor(
    private readonly description: TrainingDescription,
    private readonly options: SessionOptions,
  ) {}

  /** What evaluates a batch; the first one says how the session is typed. */
  async evaluator(model: Model, state: Feeds, inputs: Feeds) {
    if (!this.#evaluator) {
      const provider = providerOf(this.options.device);
      const found = await evaluationModel(
        model,
        shapesIn(() => inputs),
        provider,
      );
      this.#evaluator = { session: await this.#open(found.model), samples: found.samples };
    }
    const { session, samples } = this.#evaluator;
    const feeds = { ...this.#learned(session, state), ...inputs };
    return { samples, inputs, run: (fetch: readonly string[]) => session.run(feeds, fetch) };
  }

  /** The outputs of these names. */
  async predict(model: Model, state: Feeds, names: readonly string[], given: Feeds): Promise<Feeds> {
    const all = asFeeds(given);
    const provider = providerOf(this.options.device);
    this.#predictor ??= await this.#open(
      await injectedPredictionModel(
        model,
        names,
        shapesIn(() => all),
        provider,
      ),
    );
    const session = this.#predictor;
    const inputs = Object.fromEntries(Object.entries(all).filter(([name]) => session.inputs.includes(name)));
    return session.run({ ...this.#learned(session, state), ...inputs }, names);
  }

  async #open(model: Model): Promise<Session> {
    return Session.create(await layOut(model, this.options), this.options);
  }

  /** The parameters and running statistics that a session takes. */
  #learned(session: Session, state: Feeds): Feeds {
    const { parameters, statistics } = this.description;
    const names = [...parameters.map(p => p.name), ...statistics].filter(n => session.inputs.includes(n));
    return Object.fromEntries(names.map(name => [name, state[name]!]));
  }

  async release(): Promise<void> {
    await this.#evaluator?.session.release();
    await this.#predictor?.release();
  }
}
