// A native call while other Python threads run: without the GIL, one at a time per model, whole
// across a fork, and ended before the interpreter is.
#pragma once
#include <nanobind/nanobind.h>

#include <atomic>
#include <mutex>

#include "host/fork.h"

namespace halfbyte {

// For the time it exists the GIL is not held, and `of` is.
//
//     give up the GIL -> keep off forks -> lock the model -> work -> unlock -> take back the GIL
//
// No thread waits for the GIL while it holds anything, so none of these waits can be a circle:
// between the arrows no Python object (an nb::ndarray neither) may be made, copied or dropped.
//
// At the end of the process Python ends a thread that asks for the GIL in the midst of its C++
// frames, which is an abort. So the module waits, before that, for the calls that are under way
// (`end_calls`); one that a thread makes afterwards raises SystemExit instead, which ends the
// thread without a word. The thread that ends the process may still call.
class Call {
  public:
    explicit Call(std::mutex& of);
    Call();  // no model
    ~Call();
    Call(const Call&) = delete;
    Call& operator=(const Call&) = delete;

  private:
    PyThreadState* python_;
    Unforked unforked_;
    std::unique_lock<std::mutex> lock_;
};

// Whether a call of several forwards is to end early; all that exist are set when the process ends.
// Made and destroyed with the GIL.
class Interrupt {
  public:
    Interrupt();
    ~Interrupt();
    Interrupt(const Interrupt&) = delete;
    Interrupt& operator=(const Interrupt&) = delete;
    std::atomic<bool> wanted = false;
};

// Has `end_calls` run when the interpreter begins to end.
void register_end_of_calls();

}  // namespace halfbyte
