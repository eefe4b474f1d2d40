/** Completion scripts for shells, made from the tables of options. */
import { type Option, types } from '../src/command/startup.js';
import { flagOf, isSwitch, type Options, optionsOf } from './flags.js';
import { COMMAND_NAMES, describe, loadCommand } from './program.js';

export const SHELLS = ['bash', 'zsh', 'fish'] as const;
export type Shell = (typeof SHELLS)[number];

type Flag = {
  name: string;
  alias?: string;
  help: string;
  values: 'none' | 'files' | 'text' | readonly string[];
};
type Command = {
  name: string;
  help: string;
  flags: Flag[];
  takesFile: boolean;
  arguments: readonly string[];
};

export async function completionScript(shell: Shell): Promise<string> {
  const commands = await Promise.all(
    COMMAND_NAMES.map(async (name): Promise<Command> => {
      const { model, options } = await loadCommand(name);
      const isShell = name === 'completion';
      return {
        name,
        help: describe(name),
        flags: [...flagsOf(name, options), ...COMMON],
        takesFile: model !== undefined && !isShell,
        arguments: isShell ? SHELLS : [],
      };
    }),
  );
  return { bash, zsh, fish }[shell](commands);
}

const COMMON: Flag[] = [
  { name: 'help', alias: 'h', help: 'Show help', values: 'none' },
  { name: 'help-all', help: 'Show expert options too', values: 'none' },
  { name: 'no-color', help: 'Plain output', values: 'none' },
];

function flagsOf(command: (typeof COMMAND_NAMES)[number], own: Options): Flag[] {
  return optionsOf(command, own).flatMap(([name, option]): Flag[] => {
    const { alias, help, group } = option;
    const flag = { name: flagOf(name, option), ...(alias === undefined ? {} : { alias }), help };
    if (!isSwitch(option)) return [{ ...flag, values: valuesOf(option) }];
    const off = { name: `no-${flag.name}`, help: `Off: ${help}`, values: 'none' } as const;
    // What only prints or writes more has nothing to switch off.
    return [{ ...flag, values: 'none' }, ...(group === 'Output' || group === 'Run' ? [] : [off])];
  });
}

/** Texts may be paths; what is read from text by rules of its own (lists, globs, numbers) is not. */
function valuesOf({ type, parse }: Option): Flag['values'] {
  const names = types.namesOf(type);
  if (names) return names;
  const isText = ['string', 'array', 'union'].includes(type.type);
  return isText && !parse ? 'files' : 'text';
}

/** Words are split at = by the shell itself. Where nothing is left to say, files are completed. */
function bash(commands: readonly Command[]): string {
  const cases = commands.map(({ name, flags, arguments: words }) => {
    const all = flags.flatMap(f => [`--${f.name}`, ...(f.alias ? [`-${f.alias}`] : [])]);
    return `    ${name}) flags=${quote(all.join(' '))} words=${quote(words.join(' '))} ;;`;
  });
  const values = commands.flatMap(({ name, flags }) =>
    flags.flatMap(({ name: flag, values }) =>
      Array.isArray(values)
        ? [`    ${quote(`${name} --${flag}`)}) choices=${quote(values.join(' '))} ;;`]
        : values === 'text'
          ? [`    ${quote(`${name} --${flag}`)}) free=1 ;;`]
          : [],
    ),
  );
  return `# agd-onnx completion for bash: source <(agd-onnx completion bash)
_agd_onnx() {
  local cur="\${COMP_WORDS[COMP_CWORD]}" prev="\${COMP_WORDS[COMP_CWORD-1]}" command="\${COMP_WORDS[1]}"
  local flags='' words='' choices='' free=''
  COMPREPLY=()
  if [[ $cur == '=' ]]; then cur=''
  elif [[ $prev == '=' ]]; then prev="\${COMP_WORDS[COMP_CWORD-2]}"
  fi
  if (( COMP_CWORD == 1 )); then
    COMPREPLY=( $(compgen -W ${quote(`${commands.map(c => c.name).join(' ')} --help --version`)} -- "$cur") )
    return
  fi
  case "$command $prev" in
${values.join('\n')}
  esac
  if [[ -n $choices ]]; then
    COMPREPLY=( $(compgen -W "$choices" -- "$cur") )
    return
  fi
  if [[ -n $free ]]; then
    compopt +o default
    return
  fi
  case "$command" in
${cases.join('\n')}
  esac
  if [[ $cur == -* ]]; then
    compopt +o default
    COMPREPLY=( $(compgen -W "$flags" -- "$cur") )
  elif [[ -n $words ]]; then COMPREPLY=( $(compgen -W "$words" -- "$cur") )
  fi
}
complete -o bashdefault -o default -F _agd_onnx agd-onnx
`;
}

function zsh(commands: readonly Command[]): string {
  const action = (values: Flag['values']) =>
    Array.isArray(values) ? `:value:(${values.join(' ')})` : values === 'files' ? ':file:_files' : ':value: ';
  const spec = ({ name, help, values }: Flag) =>
    quote(
      `*--${name}${values === 'none' ? '' : '='}[${escapeZsh(help)}]${values === 'none' ? '' : action(values)}`,
    );
  const cases = commands.map(({ name, flags, takesFile, arguments: words }) => {
    const first = takesFile
      ? ["'2:model:_files'"]
      : words.length
        ? [quote(`2:shell:(${words.join(' ')})`)]
        : [];
    return `    ${name}) _arguments ${[...first, ...flags.map(spec)].join(' \\\n      ')} ;;`;
  });
  const names = commands.map(({ name, help }) => `    ${quote(`${name}:${escapeZsh(help)}`)}`);
  return `#compdef agd-onnx
# agd-onnx completion for zsh: agd-onnx completion zsh > "\${fpath[1]}/_agd-onnx"
_agd_onnx() {
  local -a commands
  commands=(
${names.join('\n')}
  )
  if (( CURRENT == 2 )); then
    _describe 'command' commands
    return
  fi
  case "$words[2]" in
${cases.join('\n')}
  esac
}
if [ "$funcstack[1]" = '_agd-onnx' ]; then _agd_onnx "$@"; else compdef _agd_onnx agd-onnx; fi
`;
}

function fish(commands: readonly Command[]): string {
  const lines = commands.flatMap(({ name, help, flags, takesFile, arguments: words }) => {
    const within = `complete -c agd-onnx -n '__fish_seen_subcommand_from ${name}'`;
    return [
      `complete -c agd-onnx -n __fish_use_subcommand -f -a ${name} -d ${quoteFish(help)}`,
      ...(takesFile ? [] : [`${within} -f${words.length ? ` -a ${quoteFish(words.join(' '))}` : ''}`]),
      ...flags.map(({ name: flag, alias, help: text, values }) =>
        [
          `${within} -l ${flag}`,
          ...(alias ? [`-s ${alias}`] : []),
          ...(Array.isArray(values)
            ? [`-x -a ${quoteFish(values.join(' '))}`]
            : { none: [], files: ['-r -F'], text: ['-x'] }[values as 'none' | 'files' | 'text']),
          `-d ${quoteFish(text)}`,
        ].join(' '),
      ),
    ];
  });
  return `# agd-onnx completion for fish: agd-onnx completion fish > ~/.config/fish/completions/agd-onnx.fish
${lines.join('\n')}
`;
}

const quote = (text: string) => `'${text.replaceAll("'", `'\\''`)}'`;
const quoteFish = (text: string) => `'${text.replaceAll('\\', '\\\\').replaceAll("'", "\\'")}'`;
const escapeZsh = (text: string) => text.replace(/[[\]:\\]/g, c => `\\${c}`);
