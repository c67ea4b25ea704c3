# Completion of moejax for bash: eval "$(moejax completion bash)"
_moejax() {
  local IFS=$'\n'
  COMPREPLY=($("${COMP_WORDS[0]}" completion words \
    "${COMP_LINE:0:COMP_POINT}" "$COMP_WORDBREAKS" 2>/dev/null))
  # What goes on behind these marks has no space behind it.
  if [[ ${COMPREPLY[0]} == *[=.:] ]]; then
    compopt -o nospace 2>/dev/null
  fi
}
# Without a word of its own bash completes files.
complete -o default -F _moejax moejax
