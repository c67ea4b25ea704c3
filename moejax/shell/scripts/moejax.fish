# Completion of moejax for fish: moejax completion fish | source
function __moejax_words
    set -l begun (commandline -opc) (commandline -ct)
    $begun[1] completion words (string join \x1f -- $begun) 2>/dev/null
end
complete -c moejax -a '(__moejax_words)'
