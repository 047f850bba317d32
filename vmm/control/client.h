// Asks a run of guests over its control socket.
#ifndef QUIRE_VMM_CONTROL_CLIENT_H_
#define QUIRE_VMM_CONTROL_CLIENT_H_

#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "vmm/control/http.h"
#include "vmm/control/request.h"

namespace quire {

// The socket of the only run there is, unless one is given. Error: InvalidArgument, there is none, or there are several
// and one has to be named.
absl::StatusOr<std::string> ChooseSocket(const std::optional<std::string>& given,
                                         const std::vector<std::string>& running);

// What a server sent until it hung up. Error: InvalidArgument, it is no answer, or not all of one.
absl::StatusOr<HttpAnswer> ParseAnswer(absl::string_view bytes);

// The body of the answer, without a line break at its end. Errors: InvalidArgument, nobody listens there, or the run
// says that the request cannot be served; Internal, what came is no answer.
absl::StatusOr<std::string> AskRun(const std::string& socket, const ControlRequest& request);

// What the answer about one guest says of its balloon, as a line of JSON without a break. Error: Internal, nothing.
absl::StatusOr<std::string> BalloonOf(const std::string& answer);

// The answer to a request for people. Error: Internal, it is none.
absl::StatusOr<std::string> AnswerText(const std::string& answer);

}  // namespace quire

#endif  // QUIRE_VMM_CONTROL_CLIENT_H_
