#include "vmm/control/server.h"

#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <fstream>
#include <memory>
#include <new>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "base/unique_fd.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "vmm/control/client.h"
#include "vmm/control/http.h"
#include "vmm/control/request.h"
#include "vmm/control/socket_place.h"

namespace quire {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

class ControlServerTest : public ::testing::Test {
 protected:
  void SetUp() override {
    // A socket's path is short; the one of a test's own directory need not be.
    char directory[] = "/tmp/quire-control-XXXXXX";
    ASSERT_NE(mkdtemp(directory), nullptr);
    directory_ = directory;
    path_ = directory_ + "/run.sock";
  }
  void TearDown() override {
    server_.reset();
    unlink(path_.c_str());
    rmdir(directory_.c_str());
  }
  // Answers with what was asked, and `padding_` spaces.
  void Start(absl::Duration patience = absl::Minutes(10)) {
    server_ = ControlServer::Start(
                  path_,
                  [this](const HttpRequest& request) {
                    ++answered_;
                    return HttpAnswer{.body = absl::StrCat(request.method, " ", request.target, " ", request.body,
                                                           std::string(padding_, ' '))};
                  },
                  patience)
                  .value();
  }
  UniqueFd Connect() { return ConnectTo(path_).value(); }
  static void Send(const UniqueFd& socket, absl::string_view bytes) {
    ASSERT_EQ(send(socket.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL), static_cast<ssize_t>(bytes.size()));
  }
  // All that comes until the server hangs up.
  static std::string ReadAll(const UniqueFd& socket) {
    std::string all;
    char bytes[4096];
    for (ssize_t count; (count = recv(socket.get(), bytes, sizeof bytes, 0)) > 0;) {
      all.append(bytes, static_cast<size_t>(count));
    }
    return all;
  }
  // Sends these bytes; what came is no answer: status 0.
  HttpAnswer Exchange(absl::string_view request) {
    const UniqueFd socket = Connect();
    Send(socket, request);
    return ParseAnswer(ReadAll(socket)).value_or(HttpAnswer{.status = 0});
  }
  std::string Ask() { return Exchange("GET /a HTTP/1.1\r\n\r\n").body; }

  // Where patience is short, so that on a slow machine who asks may be hung up on as well.
  void AwaitAnswer() {
    while (Ask().substr(0, 7) != "GET /a ") {
    }
  }

  std::string directory_;
  std::string path_;
  std::atomic<int> answered_ = 0;
  std::atomic<size_t> padding_ = 0;
  std::unique_ptr<ControlServer> server_;
};

TEST_F(ControlServerTest, ARequestIsPassedOnAsItCame) {
  Start();
  EXPECT_EQ(Ask(), "GET /a ");
  EXPECT_EQ(Exchange("GET /%2e%2e/b?x=%41+1&y HTTP/1.0\r\nHost: x\r\n\r\n").body, "GET /%2e%2e/b?x=%41+1&y ");
  EXPECT_EQ(Exchange("PATCH /c HTTP/1.1\r\nContent-Length: 5\r\n\r\nhello").body, "PATCH /c hello");
  // As curl sends them.
  EXPECT_EQ(Exchange("POST /c HTTP/1.1\r\nContent-Type: application/x-www-form-urlencoded\r\nContent-Length: "
                     "3\r\n\r\na=b")
                .body,
            "POST /c a=b");
  EXPECT_EQ(Exchange("POST /c HTTP/1.1\r\nContent-Type: multipart/form-data; boundary=x\r\nContent-Length: "
                     "3\r\n\r\n--x")
                .body,
            "POST /c --x");
  EXPECT_EQ(Exchange("PUT /c HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n1\r\nc\r\n0\r\n\r\n").body,
            "PUT /c abc");
  // Without a length there is no body.
  EXPECT_EQ(Exchange("POST /c HTTP/1.1\r\n\r\n").body, "POST /c ");
  EXPECT_EQ(Exchange("GET /a HTTP/1.1\r\nRange: bytes=0-1\r\n\r\n").body, "GET /a ");
}

TEST_F(ControlServerTest, WhatIsNoRequestIsRefusedInJson) {
  Start();
  for (const std::string bytes : {"hello\r\n\r\n", "GET /\r\n\r\n", "GET / HTTP/2.0\r\n\r\n", "\r\n\r\n",
                                  "BREW /pot HTTP/1.1\r\n\r\n", "TRACE / HTTP/1.1\r\n\r\n"}) {
    const HttpAnswer answer = Exchange(bytes);
    EXPECT_EQ(answer.status, 400) << bytes;
    EXPECT_THAT(answer.body, HasSubstr("this is no HTTP request that can be read")) << bytes;
    EXPECT_EQ(answer.content_type, kJsonType);
  }
  EXPECT_EQ(answered_, 0);
}

TEST_F(ControlServerTest, WhatIsTooLongIsRefused) {
  Start();
  const std::string most = std::string(kLongestBody, 'x');
  const auto post = [&](const std::string& body) {
    return Exchange(absl::StrCat("POST / HTTP/1.1\r\nContent-Length: ", body.size(), "\r\n\r\n", body));
  };
  EXPECT_EQ(post(most).status, 200);
  for (const std::string& body : {most + "x", std::string(100'000, 'x')}) {
    const HttpAnswer answer = post(body);
    EXPECT_EQ(answer.status, 413);
    EXPECT_THAT(answer.body, HasSubstr("send at most 16384 bytes"));
  }
  std::string chunked = "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n";
  for (int i = 0; i < 5; ++i) absl::StrAppend(&chunked, "1000\r\n", std::string(4096, 'x'), "\r\n");
  EXPECT_EQ(Exchange(chunked + "0\r\n\r\n").status, 413);
  const HttpAnswer path = Exchange(absl::StrCat("GET /", std::string(1100, 'x'), " HTTP/1.1\r\n\r\n"));
  EXPECT_EQ(path.status, 414);
  EXPECT_THAT(path.body, HasSubstr("fewer than 1000 bytes"));
  EXPECT_EQ(Exchange(absl::StrCat("GET / HTTP/1.1\r\nA: ", std::string(2000, 'x'), "\r\n\r\n")).status, 400);
  EXPECT_EQ(answered_, 1);
}

TEST_F(ControlServerTest, WhatThrowsIsAnErrorOfTheServers) {
  server_ = ControlServer::Start(path_, [](const HttpRequest&) -> HttpAnswer { throw std::bad_alloc(); }).value();
  const HttpAnswer answer = Exchange("GET / HTTP/1.1\r\n\r\n");
  EXPECT_EQ(answer.status, 500);
  EXPECT_THAT(answer.body, HasSubstr("could not be answered"));
}

TEST_F(ControlServerTest, OnlyItsUserMayConnectAndNothingIsLeftBehind) {
  Start();
  struct stat found;
  ASSERT_EQ(stat(path_.c_str(), &found), 0);
  EXPECT_EQ(found.st_mode & 0777, 0600u);
  server_.reset();
  EXPECT_NE(stat(path_.c_str(), &found), 0);
}

TEST_F(ControlServerTest, ARequestThatComesInPiecesIsOne) {
  Start();
  const UniqueFd socket = Connect();
  for (const char* piece : {"P", "OST / HT", "TP/1.1\r", "\nContent-Length: 3\r\n\r\na", "b", "c and more"})
    Send(socket, piece);
  EXPECT_EQ(ParseAnswer(ReadAll(socket)).value().body, "POST / abc");
}

TEST_F(ControlServerTest, EndlessRequestsAreRefusedBeforeTheyEnd) {
  Start();
  for (const char* begin : {"", "GET / HTTP/1.1\r\n",
                            "GET / HTTP/1.1\r\nA: ", "POST / HTTP/1.1\r\nContent-Length: 18446744073709551615\r\n\r\n",
                            "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nffffffff\r\n"}) {
    const UniqueFd socket = Connect();
    Send(socket, begin);
    const std::string much(4096, 'x');
    // Until the server hangs up.
    while (send(socket.get(), much.data(), much.size(), MSG_NOSIGNAL) > 0) {
    }
  }
  EXPECT_EQ(answered_, 0);
  EXPECT_EQ(Ask(), "GET /a ");
}

TEST_F(ControlServerTest, AClientThatDripsIsHungUpOnInTheEnd) {
  Start(absl::Milliseconds(200));
  const UniqueFd socket = Connect();
  while (send(socket.get(), "x", 1, MSG_NOSIGNAL) > 0) absl::SleepFor(absl::Milliseconds(5));
  EXPECT_EQ(answered_, 0);
}

TEST_F(ControlServerTest, ClientsThatSayNothingKeepNobodyOut) {
  Start(absl::Milliseconds(200));
  std::vector<UniqueFd> silent;
  for (size_t i = 0; i < ControlServer::kMostConnections + 4; ++i) silent.push_back(Connect());
  AwaitAnswer();
  EXPECT_EQ(ReadAll(silent[0]), "");
}

TEST_F(ControlServerTest, ClientsThatTakeNoAnswerKeepNobodyOut) {
  padding_ = 4 << 20;  // more than a socket holds
  Start(absl::Milliseconds(200));
  std::vector<UniqueFd> deaf;
  for (size_t i = 0; i < ControlServer::kMostConnections; ++i) {
    deaf.push_back(Connect());
    Send(deaf.back(), "GET /a HTTP/1.1\r\n\r\n");
  }
  AwaitAnswer();
}

TEST_F(ControlServerTest, ClientsThatHangUpInTheMiddleHarmNobody) {
  padding_ = 4 << 20;
  Start();
  for (int i = 0; i < 50; ++i) {
    const UniqueFd socket = Connect();
    if (i % 3 > 0) Send(socket, i % 3 == 1 ? "GET /a" : "GET /a HTTP/1.1\r\n\r\n");
  }
  padding_ = 0;
  EXPECT_EQ(Ask(), "GET /a ");
}

TEST_F(ControlServerTest, ManyClientsAtOnceAreAllAnswered) {
  Start();
  std::vector<std::thread> clients;
  std::atomic<int> right = 0;
  for (int i = 0; i < 8; ++i) {
    clients.emplace_back([&] {
      for (int n = 0; n < 50; ++n) right += Ask() == "GET /a " ? 1 : 0;
    });
  }
  for (std::thread& client : clients) client.join();
  EXPECT_EQ(right, 400);
}

TEST_F(ControlServerTest, ItStopsWithClientsConnected) {
  Start();
  const UniqueFd silent = Connect();
  server_.reset();
  EXPECT_EQ(ReadAll(silent), "");
}

TEST_F(ControlServerTest, ASocketThatNobodyListensOnIsReplacedAndNothingElseIs) {
  const UniqueFd stale(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  const sockaddr_un address = SocketAddress(path_).value();
  ASSERT_EQ(bind(stale.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address), 0);
  Start();
  EXPECT_EQ(Ask(), "GET /a ");
  const auto start = [&](const std::string& path) {
    return ControlServer::Start(path, [](const HttpRequest&) { return HttpAnswer{}; }).status();
  };
  EXPECT_THAT(std::string(start(path_).message()), HasSubstr("another run listens there"));
  EXPECT_THAT(std::string(start(directory_).message()), HasSubstr("there is something else"));
  EXPECT_THAT(std::string(start(directory_ + "/none/run.sock").message()), HasSubstr("No such file"));
  EXPECT_TRUE(absl::IsInvalidArgument(start(std::string(200, 'x'))));
}

TEST_F(ControlServerTest, ARunIsFoundAndAsked) {
  Start();
  EXPECT_THAT(RunningSockets({directory_, "/nowhere"}), ElementsAre(path_));
  EXPECT_EQ(AskRun(path_, {.guest = "0", .gfn = 1}).value(), "GET /v1/explain?guest=0&gfn=1 ");
  server_.reset();
  EXPECT_TRUE(RunningSockets({directory_}).empty());
  EXPECT_THAT(std::string(AskRun(path_, {.guest = "0"}).status().message()), HasSubstr("no run of guests listens on"));
}

TEST(ChooseSocketTest, TheOnlyRunNeedsNoName) {
  EXPECT_EQ(ChooseSocket(std::nullopt, {"/a"}).value(), "/a");
  EXPECT_EQ(ChooseSocket("/b", {"/a"}).value(), "/b");
  EXPECT_THAT(std::string(ChooseSocket(std::nullopt, {}).status().message()), HasSubstr("no run of guests was found"));
  EXPECT_THAT(std::string(ChooseSocket(std::nullopt, {"/a", "/b"}).status().message()),
              HasSubstr("--socket=/a or --socket=/b"));
}

TEST(ParseAnswerTest, IsAllOfItOrNothing) {
  const HttpAnswer answer =
      ParseAnswer("HTTP/1.1 405 No\r\ncontent-length: 2\r\nAllow: GET\r\nContent-Type: a/b\r\n\r\n{}").value();
  EXPECT_EQ(answer.status, 405);
  EXPECT_EQ(answer.allow, "GET");
  EXPECT_EQ(answer.content_type, "a/b");
  EXPECT_EQ(answer.body, "{}");
  for (const char* other :
       {"", "hello", "HTTP/1.1 200 OK\r\n", "HTTP/1.1 x\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n{}",
        "HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n{}", "HTTP/1.1 200 OK\r\n\r\n{}"}) {
    EXPECT_FALSE(ParseAnswer(other).ok()) << other;
  }
}

TEST(PlaceForSocketTest, ADirectoryThatOthersMayWriteToIsPassedBy) {
  char top[] = "/tmp/quire-place-XXXXXX";
  ASSERT_NE(mkdtemp(top), nullptr);
  const std::string open = absl::StrCat(top, "/open"), own = absl::StrCat(top, "/own");
  ASSERT_EQ(mkdir(open.c_str(), 0777), 0);
  ASSERT_EQ(chmod(open.c_str(), 0777), 0);
  EXPECT_EQ(PlaceForSocket({"/proc/none", open, own}).value(), absl::StrCat(own, "/", getpid(), ".sock"));
  EXPECT_TRUE(absl::IsFailedPrecondition(PlaceForSocket({open}).status()));
  for (const std::string& directory : {open, own, std::string(top)}) rmdir(directory.c_str());
}

TEST(AnswerTextTest, SentencesAreForPeople) {
  EXPECT_EQ(AnswerText(R"({"title": "Page 7 of guest-0", "sentences": ["It is out.", "So."]})").value(),
            "Page 7 of guest-0\n  It is out.\n  So.\n");
  for (const char* other : {"", "[]", "{}", R"({"title": 1, "sentences": []})"}) {
    EXPECT_FALSE(AnswerText(other).ok()) << other;
  }
}

}  // namespace
}  // namespace quire
