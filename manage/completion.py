"""`completion`: scripts with which a shell completes verbs, their options, and the names of queues and tasks.

Click answers what may follow. The scripts are ours: Click's for Bash cuts words at the colons of verbs, and its
others want a program that is found by PATH. Bash asks as Fish does, by the line and its last word.
"""

import shlex
from pathlib import Path

import click

from manage.examples import example
from manage.output import tell_lines
from manage.place import COMMAND, IS_HOST

# With this variable the program answers what may follow, and does nothing else.
VARIABLE = "_METABUILDER_COMPLETE"

# Readline takes what stands behind the last colon for the word, so what stands before it is cut off.
_BASH = r"""
_metabuilder() {
    local line=${COMP_LINE:0:COMP_POINT} before='' kind value
    local word=${line##*[[:space:]]}
    [[ $COMP_WORDBREAKS == *:* && $word == *:* ]] && before=${word%:*}:
    COMPREPLY=()
    while IFS=, read -r kind value; do
        value=${value%%$'\t'*}
        case $kind in
            plain) COMPREPLY+=("${value#"$before"}") ;;
            file) compopt -o default ;;
            dir) compopt -o dirnames ;;
        esac
    done < <(VARIABLE=fish_complete COMP_WORDS=$line COMP_CWORD=$word PROGRAM 2>/dev/null)
}
complete -o nosort -F _metabuilder NAME
"""

_ZSH = r"""
#compdef NAME
_metabuilder() {
    local -a answer explained plain
    local kind value text
    answer=("${(@f)$(VARIABLE=zsh_complete COMP_WORDS="${words[*]}" COMP_CWORD=$((CURRENT-1)) PROGRAM 2>/dev/null)}")
    for kind value text in $answer; do
        case $kind in
            plain) if [[ $text == _ ]]; then plain+=("$value"); else explained+=("$value:$text"); fi ;;
            file) _path_files ;;
            dir) _path_files -/ ;;
        esac
    done
    (( $#explained )) && _describe -V verbs explained
    (( $#plain )) && compadd -V values -a plain
}
if [[ $zsh_eval_context[-1] == loadautofunc ]]; then _metabuilder "$@"; else compdef _metabuilder NAME; fi
"""

_FISH = r"""
function _metabuilder
    set -l line (commandline -cp)
    set -l word (commandline -ct)
    for found in (VARIABLE=fish_complete COMP_WORDS=$line COMP_CWORD=$word PROGRAM 2>/dev/null)
        set -l answer (string split -m 1 , -- $found)
        switch $answer[1]
            case plain
                echo $answer[2]
            case file
                __fish_complete_path $word
            case dir
                __fish_complete_directories $word
        end
    end
end
complete --no-files --command NAME --arguments '(_metabuilder)'
"""

_SCRIPTS = {"bash": _BASH, "zsh": _ZSH, "fish": _FISH}


@example("completion bash")
@click.command()
@click.argument("shell", type=click.Choice(list(_SCRIPTS)))
def completion(shell: str) -> None:
    """Print the script with which a shell completes verbs and their options.

    Bash: append the script to ~/.bashrc. Zsh: write it to a file _metabuilder in a folder of $fpath. Fish: write it
    to ~/.config/fish/completions/NAME.fish, where NAME is manage.sh or metabuilder. The next shell completes.
    """
    # In a clone the verbs are those of this clone, whatever is named manage.sh elsewhere.
    program = COMMAND if IS_HOST else str(Path(__file__).parents[1] / "manage.sh")
    script = _SCRIPTS[shell].strip()
    for word, value in {"VARIABLE": VARIABLE, "NAME": Path(COMMAND).name, "PROGRAM": shlex.quote(program)}.items():
        script = script.replace(word, value)
    tell_lines(script)
