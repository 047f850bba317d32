#include "vmm/devices/serial.h"

#include <linux/serial_reg.h>

#include <cstddef>
#include <cstdint>
#include <string>
#include <thread>

#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "gtest/gtest.h"

namespace quire {
namespace {

struct SerialTest : testing::Test {
  uint8_t Read(uint64_t port) {
    std::byte byte{};
    serial.Read(port, absl::MakeSpan(&byte, 1));
    return std::to_integer<uint8_t>(byte);
  }
  void Write(uint64_t port, uint8_t value) {
    const std::byte byte{value};
    serial.Write(port, absl::MakeConstSpan(&byte, 1));
  }
  // As a driver does that opens the port.
  void Open(uint8_t interrupts) {
    Write(UART_FCR, UART_FCR_ENABLE_FIFO);
    Write(UART_MCR, UART_MCR_DTR | UART_MCR_RTS | UART_MCR_OUT2);
    Write(UART_IER, interrupts);
  }
  std::string ReadAll() {
    std::string read;
    while ((Read(UART_LSR) & UART_LSR_DR) != 0) read += static_cast<char>(Read(UART_RX));
    return read;
  }
  uint8_t InterruptId() { return Read(UART_IIR) & 0x0f; }

  int interrupts = 0;
  std::string output;
  Serial serial{[this] { ++interrupts; }, [this](absl::string_view sent) { output.append(sent.data(), sent.size()); }};
};

TEST_F(SerialTest, SendsAtOnce) {
  for (const char c : absl::string_view("hello\n")) {
    EXPECT_NE(Read(UART_LSR) & UART_LSR_THRE, 0);
    Write(UART_TX, static_cast<uint8_t>(c));
  }
  EXPECT_EQ(output, "hello\n");
  EXPECT_EQ(interrupts, 0);
}

TEST_F(SerialTest, KeepsTheDivisorApartFromData) {
  Write(UART_LCR, UART_LCR_DLAB);
  Write(UART_DLL, 0x34);
  Write(UART_DLM, 0x12);
  EXPECT_EQ(Read(UART_DLL), 0x34);
  EXPECT_EQ(Read(UART_DLM), 0x12);
  Write(UART_LCR, UART_LCR_WLEN8);
  EXPECT_EQ(Read(UART_LCR), UART_LCR_WLEN8);
  EXPECT_EQ(Read(UART_IER), 0);
  EXPECT_EQ(output, "");
}

// What Linux's driver looks at to find out what kind of port it is.
TEST_F(SerialTest, LooksLikeA16550A) {
  Write(UART_SCR, 0xa5);
  EXPECT_EQ(Read(UART_SCR), 0xa5);
  Write(UART_IER, 0xff);
  EXPECT_EQ(Read(UART_IER), 0x0f);
  Write(UART_IER, 0);
  Write(UART_FCR, UART_FCR_ENABLE_FIFO | UART_FCR7_64BYTE);
  EXPECT_EQ(Read(UART_IIR) >> 5, 6) << "FIFOs, not those of 64 bytes";
  Write(UART_FCR, 0);
  EXPECT_EQ(Read(UART_IIR) >> 5, 0);
  Write(UART_MCR, UART_MCR_LOOP | UART_MCR_OUT2 | UART_MCR_RTS);
  EXPECT_EQ(Read(UART_MSR) & 0xf0, UART_MSR_DCD | UART_MSR_CTS);
}

// Linux takes a port whose transmitter's interrupt does not come back for a broken one, and polls it.
TEST_F(SerialTest, InterruptsEachTimeThatTheTransmittersInterruptIsEnabled) {
  Open(UART_IER_THRI);
  EXPECT_EQ(interrupts, 1);
  EXPECT_EQ(InterruptId(), UART_IIR_THRI);
  EXPECT_EQ(InterruptId(), UART_IIR_NO_INT) << "acknowledged";
  Write(UART_IER, 0);
  Write(UART_IER, UART_IER_THRI);
  EXPECT_EQ(interrupts, 2);
  EXPECT_EQ(InterruptId(), UART_IIR_THRI);
}

TEST_F(SerialTest, InterruptsOnceForAllThatIsSentBeforeItIsAcknowledged) {
  Open(UART_IER_THRI);
  InterruptId();
  interrupts = 0;
  for (int i = 0; i < 16; ++i) Write(UART_TX, 'x');
  EXPECT_EQ(interrupts, 1);
  EXPECT_EQ(InterruptId(), UART_IIR_THRI);
  Write(UART_TX, 'x');
  EXPECT_EQ(interrupts, 2);
}

TEST_F(SerialTest, GivesTheGuestWhatWasReceived) {
  Open(UART_IER_RDI);
  serial.Receive("ls\n");
  EXPECT_EQ(interrupts, 1);
  EXPECT_EQ(InterruptId(), UART_IIR_RDI);
  EXPECT_EQ(ReadAll(), "ls\n");
  EXPECT_EQ(InterruptId(), UART_IIR_NO_INT);
}

TEST_F(SerialTest, LetsBytesWaitUntilThereIsRoom) {
  Open(UART_IER_RDI);
  const std::string input(40, 'i');
  serial.Receive(input);
  EXPECT_EQ(serial.waiting(), 24);
  EXPECT_EQ(interrupts, 1);
  for (int i = 0; i < 16; ++i) Read(UART_RX);
  EXPECT_EQ(serial.waiting(), 8);
  EXPECT_EQ(interrupts, 2) << "for what has come in since";
  EXPECT_EQ(ReadAll(), std::string(24, 'i'));
  EXPECT_EQ(serial.waiting(), 0);
}

TEST_F(SerialTest, HasRoomForOneByteWithoutFifos) {
  Open(UART_IER_RDI);
  Write(UART_FCR, 0);
  serial.Receive("ab");
  EXPECT_EQ(serial.waiting(), 1);
  EXPECT_EQ(ReadAll(), "ab");
}

// A driver that opens the port clears the FIFO and reads it empty, which must not cost what a user has typed.
TEST_F(SerialTest, KeepsBytesForADriverThatIsNotThereYet) {
  serial.Receive("early");
  Write(UART_FCR, UART_FCR_ENABLE_FIFO | UART_FCR_CLEAR_RCVR);
  EXPECT_EQ(Read(UART_LSR) & UART_LSR_DR, 0);
  EXPECT_EQ(Read(UART_RX), 0);
  Open(UART_IER_RDI);
  EXPECT_EQ(interrupts, 1);
  EXPECT_EQ(ReadAll(), "early");
}

TEST_F(SerialTest, ClearsTheFifo) {
  Open(0);
  serial.Receive("junk");
  Write(UART_FCR, UART_FCR_ENABLE_FIFO | UART_FCR_CLEAR_RCVR);
  EXPECT_EQ(ReadAll(), "");
}

TEST_F(SerialTest, InterruptsOnlyThroughTheGateOfAPc) {
  Open(UART_IER_THRI);
  interrupts = 0;
  Write(UART_MCR, UART_MCR_RTS);
  Write(UART_TX, 'x');
  EXPECT_EQ(interrupts, 0);
  EXPECT_EQ(InterruptId(), UART_IIR_THRI);
  Write(UART_TX, 'x');
  Write(UART_MCR, UART_MCR_RTS | UART_MCR_OUT2);
  EXPECT_EQ(interrupts, 1) << "what is there when the gate opens comes through";
}

TEST_F(SerialTest, LoopsBackWhatIsSent) {
  Open(0);
  Write(UART_MCR, UART_MCR_LOOP | UART_MCR_RTS);
  serial.Receive("outside");
  for (const char c : absl::string_view("loop")) Write(UART_TX, static_cast<uint8_t>(c));
  EXPECT_EQ(ReadAll(), "loop");
  EXPECT_EQ(output, "");
  Write(UART_MCR, UART_MCR_RTS);
  EXPECT_EQ(ReadAll(), "outside");
}

TEST_F(SerialTest, ReportsBytesThatALoopbackHadNoRoomFor) {
  Open(0);
  Write(UART_MCR, UART_MCR_LOOP);
  for (int i = 0; i < 17; ++i) Write(UART_TX, 'x');
  Write(UART_IER, UART_IER_RLSI);
  EXPECT_EQ(InterruptId(), UART_IIR_RLSI);
  EXPECT_NE(Read(UART_LSR) & UART_LSR_OE, 0);
  EXPECT_EQ(Read(UART_LSR) & UART_LSR_OE, 0) << "told once";
  EXPECT_EQ(ReadAll(), std::string(16, 'x'));
}

TEST_F(SerialTest, ReportsChangesOfTheModemsLines) {
  Open(UART_IER_MSI);
  EXPECT_EQ(Read(UART_MSR), UART_MSR_DCD | UART_MSR_DSR | UART_MSR_CTS);
  Write(UART_MCR, UART_MCR_LOOP | UART_MCR_OUT1);
  EXPECT_EQ(InterruptId(), UART_IIR_MSI);
  EXPECT_EQ(Read(UART_MSR), UART_MSR_RI | UART_MSR_DDCD | UART_MSR_DDSR | UART_MSR_DCTS);
  EXPECT_EQ(InterruptId(), UART_IIR_NO_INT);
  Write(UART_MCR, UART_MCR_LOOP);
  EXPECT_EQ(Read(UART_MSR), UART_MSR_TERI);
}

TEST_F(SerialTest, TakesWideAccessesAsOneOfEachRegister) {
  const std::byte bytes[] = {std::byte{'x'}, std::byte{UART_IER_RDI}};
  serial.Write(UART_TX, bytes);
  EXPECT_EQ(output, "x");
  EXPECT_EQ(Read(UART_IER), UART_IER_RDI);
  std::byte all[4];
  serial.Read(UART_LCR + 4, absl::MakeSpan(all));
  EXPECT_EQ(all[0], std::byte{0}) << "the scratch register";
  EXPECT_EQ(all[1], std::byte{0xff}) << "past the last one";
}

TEST(SerialThreads, LosesNothingBetweenWhoSendsAndWhoReads) {
  Serial serial([] {}, [](absl::string_view) {});
  const auto access = [&](uint64_t port, uint8_t value) {
    const std::byte byte{value};
    serial.Write(port, absl::MakeConstSpan(&byte, 1));
  };
  access(UART_FCR, UART_FCR_ENABLE_FIFO);
  access(UART_MCR, UART_MCR_RTS | UART_MCR_OUT2);
  constexpr int kBytes = 1000;
  std::thread sender([&] {
    for (int i = 0; i < kBytes; ++i) serial.Receive(std::string(1, static_cast<char>(i)));
  });
  for (int i = 0; i < kBytes;) {
    std::byte status, byte;
    serial.Read(UART_LSR, absl::MakeSpan(&status, 1));
    if ((std::to_integer<uint8_t>(status) & UART_LSR_DR) == 0) {
      std::this_thread::yield();
      continue;
    }
    serial.Read(UART_RX, absl::MakeSpan(&byte, 1));
    ASSERT_EQ(std::to_integer<uint8_t>(byte), i++ & 0xff);
  }
  sender.join();
}

}  // namespace
}  // namespace quire
