#include "vmm/control/client.h"

#include <sys/socket.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "base/unique_fd.h"
#include "nlohmann/json.hpp"
#include "vmm/control/socket_place.h"
#include "vmm/text.h"

namespace quire {
namespace {

using Json = nlohmann::json;

// More than any answer has.
constexpr size_t kLongestAnswer = 64 << 20;

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

// What is asked is on a connection of its own, and the answer ends where that does.
absl::StatusOr<HttpAnswer> Exchange(const std::string& socket, const HttpRequest& request) {
  const absl::StatusOr<UniqueFd> connection = ConnectTo(socket);
  if (!connection.ok()) return connection.status();
  const std::string bytes =
      absl::StrCat(request.method, " ", request.target, " HTTP/1.1\r\nHost: quire\r\nConnection: close\r\n",
                   "Content-Length: ", request.body.size(), "\r\n\r\n", request.body);
  if (send(connection->get(), bytes.data(), bytes.size(), MSG_NOSIGNAL) != static_cast<ssize_t>(bytes.size())) {
    return NoAnswer(socket, std::strerror(errno));
  }
  const absl::StatusOr<std::string> received = Receive(*connection, socket);
  if (!received.ok()) return received.status();
  if (received->empty()) return NoAnswer(socket, "it hung up");
  absl::StatusOr<HttpAnswer> answer = ParseAnswer(*received);
  return answer.ok() ? answer : NoAnswer(socket, answer.status().message());
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

absl::StatusOr<HttpAnswer> ParseAnswer(absl::string_view bytes) {
  constexpr absl::string_view kVersion = "HTTP/1.1 ", kEnd = "\r\n\r\n";
  const size_t head = bytes.find(kEnd);
  HttpAnswer answer{.content_type = ""};
  if (head == absl::string_view::npos || !absl::StartsWith(bytes, kVersion) ||
      !absl::SimpleAtoi(bytes.substr(kVersion.size(), 3), &answer.status)) {
    return absl::InvalidArgumentError("what came is no HTTP");
  }
  answer.body = std::string(bytes.substr(head + kEnd.size()));
  size_t length = 0;
  for (const absl::string_view line : absl::StrSplit(bytes.substr(0, head), "\r\n")) {
    const std::pair<absl::string_view, absl::string_view> header = absl::StrSplit(line, absl::MaxSplits(": ", 1));
    if (absl::EqualsIgnoreCase(header.first, "Content-Type")) answer.content_type = std::string(header.second);
    if (absl::EqualsIgnoreCase(header.first, "Allow")) answer.allow = std::string(header.second);
    if (!absl::EqualsIgnoreCase(header.first, "Content-Length")) continue;
    if (!absl::SimpleAtoi(header.second, &length)) return absl::InvalidArgumentError("what came has no length");
  }
  if (answer.body.size() != length) return absl::InvalidArgumentError("what came is not all");
  return answer;
}

absl::StatusOr<std::string> AskRun(const std::string& socket, const ControlRequest& request) {
  absl::StatusOr<HttpAnswer> answer = Exchange(socket, FormatRequest(request));
  if (!answer.ok()) return answer.status();
  if (answer->status == 200) return std::string(absl::StripSuffix(answer->body, "\n"));
  const Json json = Parse(answer->body);
  if (!json.is_object() || !json.contains("error") || !json["error"].is_string()) {
    return NoAnswer(socket, absl::StrCat("status ", answer->status));
  }
  return absl::InvalidArgumentError(json["error"].get<std::string>());
}

absl::StatusOr<std::string> BalloonOf(const std::string& answer) {
  const Json json = Parse(answer);
  if (json.is_object() && json.contains("balloon")) return json["balloon"].dump();
  return absl::InternalError("what came says nothing of a balloon: is the run of the same version of quire?");
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
