#compdef moejax
# Completion of moejax for zsh, below compinit: eval "$(moejax completion zsh)"
_moejax() {
  local -a found
  found=("${(@f)$("$words[1]" completion words \
    "${(pj:\x1f:)words[1,CURRENT-1]}"$'\x1f'"$PREFIX" 2>/dev/null)}")
  if [[ -z "$found" ]]; then
    # Files behind the flag, as in --workdir=runs/
    compset -P '*='
    _files
    return
  fi
  # What goes on behind these marks has no space behind it.
  compadd -S '' -- ${(M)found:#*[=.:]}
  compadd -- ${found:#*[=.:]}
}
compdef _moejax moejax
