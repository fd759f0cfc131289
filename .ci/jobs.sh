# Jobs that run beside one another, for scripts that source this and have a folder $work: what a job prints is shown
# when it has ended.
declare -A jobs
begin() {  # name, command...
  local name=$1
  shift
  set -m  # a process group for each job, which can be ended as a whole
  "$@" >"$work/$name.out" 2>&1 </dev/null &
  set +m
  jobs[$name]=$!
}
end() {  # name
  local status=0
  wait "${jobs[$1]}" || status=$?
  unset "jobs[$1]"
  cat "$work/$1.out"
  [ "$status" -eq 0 ] || echo "the job '$1' failed with status $status" >&2
  return "$status"
}
end_all() {  # those that still run, for a script's trap
  local group
  for group in "${jobs[@]}"; do kill -- "-$group" 2>/dev/null || true; done
}
