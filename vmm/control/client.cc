#include "vmm/control/client.h"

#include <sys/socket.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/strip.h"
#include "base/unique_fd.h"
#include "nlohmann/json.hpp"
#include "vmm/control/socket_place.h"
#include "vmm/text.h"

namespace quire {
namespace {

using Json = nlohmann::json;

// More than any answer has.
constexpr size_t kLongestAnswer = 1 << 20;

absl::Status NoAnswer(const std::string& socket, absl::string_view why) {
  return absl::InternalError(absl::StrCat("the run that listens on ", socket, " gave no answer (", why, ")"));
}

absl::StatusOr<std::string> Receive(const UniqueFd& connection, const std::string& socket) {
  std::string answer;
  char bytes[4096];
  for (;;) {
    const ssize_t count = recv(connection.get(), bytes, sizeof bytes, 0);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return NoAnswer(socket, errno == EAGAIN ? "it took too long" : std::strerror(errno));
    if (count == 0) return answer;
    answer.append(bytes, static_cast<size_t>(count));
    if (answer.size() > kLongestAnswer) return NoAnswer(socket, "it is too long");
  }
}

Json Parse(const std::string& answer) { return Json::parse(answer, nullptr, /*allow_exceptions=*/false); }

}  // namespace

absl::StatusOr<std::string> ChooseSocket(const std::optional<std::string>& given,
                                         const std::vector<std::string>& running) {
  if (given.has_value()) return *given;
  if (running.size() == 1) return running.front();
  if (running.empty()) {
    return absl::InvalidArgumentError(
        "no run of guests was found: start one with `quire run`, or name its socket with --socket=PATH, as it was "
        "given "
        "by --control=PATH");
  }
  return absl::InvalidArgumentError(absl::StrCat("several runs of guests were found: name one of them with --socket=",
                                                 absl::StrJoin(running, " or --socket=")));
}

absl::StatusOr<std::string> AskRun(const std::string& socket, const ControlRequest& request) {
  const absl::StatusOr<UniqueFd> connection = ConnectTo(socket);
  if (!connection.ok()) return connection.status();
  const std::string line = absl::StrCat(FormatRequest(request), "\n");
  if (send(connection->get(), line.data(), line.size(), MSG_NOSIGNAL) != static_cast<ssize_t>(line.size())) {
    return NoAnswer(socket, std::strerror(errno));
  }
  absl::StatusOr<std::string> answer = Receive(*connection, socket);
  if (!answer.ok()) return answer;
  const Json json = Parse(*answer);
  if (!json.is_object()) return NoAnswer(socket, answer->empty() ? "it hung up" : "what came is no JSON");
  if (json.contains("error") && json["error"].is_string()) {
    return absl::InvalidArgumentError(json["error"].get<std::string>());
  }
  return std::string(absl::StripSuffix(*answer, "\n"));
}

absl::StatusOr<std::string> AnswerText(const std::string& answer) {
  const Json json = Parse(answer);
  if (!json.is_object() || !json.contains("title") || !json["title"].is_string() || !json.contains("sentences") ||
      !json["sentences"].is_array()) {
    return absl::InternalError("what came is no answer: is the run of the same version of quire?");
  }
  std::string text = absl::StrCat(json["title"].get<std::string>(), "\n");
  for (const Json& sentence : json["sentences"]) {
    if (sentence.is_string()) absl::StrAppend(&text, "  ", Wrap(sentence.get<std::string>(), 100, 2), "\n");
  }
  return text;
}

}  // namespace quire
