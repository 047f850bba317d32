// Where a run's control socket is, and how one is found.
#ifndef QUIRE_VMM_CONTROL_SOCKET_PLACE_H_
#define QUIRE_VMM_CONTROL_SOCKET_PLACE_H_

#include <sys/un.h>

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "base/unique_fd.h"

namespace quire {

// The directories in which runs of this user put their sockets, the preferred one first: $XDG_RUNTIME_DIR/quire,
// /run/quire, /tmp/quire-UID.
std::vector<std::string> ControlDirectories();

// The path for this process in the first of `directories` that can be had, which is made if need be. One that is
// not this user's own, or that others may write to, is passed by. Error: FailedPrecondition, none can be had.
absl::StatusOr<std::string> PlaceForSocket(const std::vector<std::string>& directories = ControlDirectories());

// Error: InvalidArgument, the path is too long for a socket's.
absl::StatusOr<sockaddr_un> SocketAddress(const std::string& path);

// A connection to whoever listens there. Transfers give up after ten seconds. Errors: InvalidArgument, nobody listens
// there, or the path is none of a socket.
absl::StatusOr<UniqueFd> ConnectTo(const std::string& path);

// The sockets in `directories` that somebody listens on.
std::vector<std::string> RunningSockets(const std::vector<std::string>& directories = ControlDirectories());

}  // namespace quire

#endif  // QUIRE_VMM_CONTROL_SOCKET_PLACE_H_
