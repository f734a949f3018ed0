package main

import (
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"
	"redoubt.internal/appliance/cmdline"
)

const exitCodesTopic = `Exit codes
  0   ok
  1   local error: a file, a key, the configuration
  2   usage: the command line itself
  3   remote or unavailable
  4   doctor --strict: nothing fails, something is warned of
  70  internal error; no verdict was printed
verify
  10  no matching signature          20  untrusted root or key        24  time invalid
  11  identity or issuer refused     21  trust or data too old        25  revoked or denied
  12  signature or digest mismatch   22  bad log proof                26  malformed input
                                     23  policy denied
mirror
  10  nothing to do                  31  bad proof                    50  stale beyond policy
  20  gap                            40  bad volume (named)           51  clock in doubt
  21  replay, or below a floor       41  unreadable medium            60  unknown key or origin
  22  forked stream                  42  disk full or quota           61  foreign exporter key
  23  wrong stream                                                    75  another import runs
  30  log fork
`

// topics are what `redoubt docs` prints; generated ones cannot fall behind the binary.
func topics(app *cli.App) map[string]func(io.Writer) error {
	return map[string]func(io.Writer) error{
		"config":      configManual,
		"json":        resultsManual,
		"permissions": permissionsPage,
		"exit-codes":  func(w io.Writer) error { _, err := io.WriteString(w, exitCodesTopic); return err },
		"gate-config": admissionManual,
		"commands": func(w io.Writer) error {
			text, err := app.ToMarkdown()
			if err == nil {
				_, err = io.WriteString(w, text)
			}
			return err
		},
		"man": func(w io.Writer) error {
			text, err := app.ToManWithSection(8)
			if err == nil {
				_, err = io.WriteString(w, text)
			}
			return err
		},
	}
}

// docsFolder is where install.sh puts the pages of docs/.
const docsFolder = "/usr/share/redoubt/docs"

// addPages adds the installed pages, each by its name without the ending.
func addPages(all map[string]func(io.Writer) error, folder string) {
	pages, err := filepath.Glob(filepath.Join(folder, "*.md"))
	if err != nil {
		return
	}
	for _, page := range pages {
		all[strings.ToLower(strings.TrimSuffix(filepath.Base(page), ".md"))] = func(w io.Writer) error {
			text, err := os.ReadFile(page)
			if err == nil {
				_, err = w.Write(text)
			}
			return err
		}
	}
}

func docsCommand() *cli.Command {
	return &cli.Command{
		Name: "docs", Usage: "print a page of the manual", ArgsUsage: "[TOPIC]",
		Action: func(c *cli.Context) error {
			all := topics(newApp(c.App.Writer, c.App.ErrWriter))
			addPages(all, docsFolder)
			name := c.Args().First()
			if name == "" {
				_, err := fmt.Fprintln(c.App.Writer, strings.Join(slices.Sorted(maps.Keys(all)), "\n"))
				return err
			}
			page, ok := all[name]
			if !ok {
				return cmdline.Usage("no page %q; there are %s", name, strings.Join(slices.Sorted(maps.Keys(all)), ", "))
			}
			return page(c.App.Writer)
		},
	}
}

const bashCompletion = `# bash completion for redoubt: source <(redoubt completion bash)
_redoubt() {
  local words
  words=$(redoubt completion words "${COMP_WORDS[@]:1:COMP_CWORD-1}")
  COMPREPLY=($(compgen -W "$words" -- "${COMP_WORDS[COMP_CWORD]}"))
  [ ${#COMPREPLY[@]} -gt 0 ] || COMPREPLY=($(compgen -f -- "${COMP_WORDS[COMP_CWORD]}"))
}
complete -o filenames -F _redoubt redoubt
`

const zshCompletion = `# zsh completion for redoubt: source <(redoubt completion zsh)
autoload -U +X bashcompinit && bashcompinit
`

const powershellCompletion = `# PowerShell completion for redoubt: redoubt completion powershell | Out-String | Invoke-Expression
Register-ArgumentCompleter -Native -CommandName redoubt -ScriptBlock {
  param($wordToComplete, $commandAst, $cursorPosition)
  $words = @($commandAst.CommandElements | Select-Object -Skip 1 | ForEach-Object { $_.ToString() })
  if ($wordToComplete -and $words.Count -gt 0) { $words = @($words | Select-Object -SkipLast 1) }
  redoubt completion words @words | Where-Object { $_ -like "$wordToComplete*" } | ForEach-Object {
    [System.Management.Automation.CompletionResult]::new($_, $_, 'ParameterValue', $_)
  }
}
`

func completionCommand() *cli.Command {
	return &cli.Command{
		Name: "completion", Usage: "print shell completion", ArgsUsage: "bash|zsh|fish|powershell",
		Action: func(c *cli.Context) error {
			app := newApp(c.App.Writer, c.App.ErrWriter)
			var text string
			var err error
			switch shell := c.Args().First(); shell {
			case "bash":
				text = bashCompletion
			case "zsh":
				text = zshCompletion + bashCompletion
			case "powershell":
				text = powershellCompletion
			case "fish":
				text, err = app.ToFishCompletion()
			case "words":
				text = strings.Join(candidates(app, c.Args().Tail()), "\n") + "\n"
			default:
				return cmdline.Usage("completion takes bash, zsh, fish or powershell, not %q", shell)
			}
			if err == nil {
				_, err = io.WriteString(c.App.Writer, text)
			}
			return err
		},
	}
}

// candidates are the verbs and flags that may follow words.
func candidates(app *cli.App, words []string) (out []string) {
	flags, commands := app.Flags, app.Commands
	for _, word := range words {
		if i := slices.IndexFunc(commands, func(c *cli.Command) bool { return c.HasName(word) }); i >= 0 {
			flags, commands = commands[i].Flags, commands[i].Subcommands
		}
	}
	for _, c := range commands {
		out = append(out, c.Name)
	}
	for _, f := range flags {
		out = append(out, "--"+f.Names()[0])
	}
	return out
}
