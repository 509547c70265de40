"use strict"

// One voter's answers to the pairs of STUDY (pairs.js). Every answer is stored in this browser; the votes leave it only
// as a file that the voter downloads.

const CHOICES = [["left", "Left"], ["same", "No difference"], ["right", "Right"]]
const KEYS = {1: "left", ArrowLeft: "left", 2: "same", ArrowDown: "same", 3: "right", ArrowRight: "right"}
const SMALL = 256 // images narrower than this many pixels are enlarged

const byId = id => document.getElementById(id)
const all = selector => [...document.querySelectorAll(selector)]
const captions = new Map(STUDY.pairs.map(pair => [pair.id, pair.caption]))
const questions = all("fieldset")
const images = [byId("left"), byId("right")]

let votes // {study, voter, name, saved, order: ids, answers: {id: {question: choice}}}
let position // in votes.order; its length means the end
let current // index of the question that the keys answer
let ready = false // both images are visible

// storage

const storeName = voter => `votes/${STUDY.id}/${voter}`

function stored(name) {
  try {
    return JSON.parse(localStorage.getItem(name))
  } catch {
    return null
  }
}

function save() {
  votes.saved = new Date().toISOString()
  try {
    localStorage.setItem(storeName(votes.voter), JSON.stringify(votes))
    localStorage.setItem(storeName("current"), JSON.stringify(votes.voter))
  } catch {
    showProblem("This browser cannot store your votes: download them before you close the page.")
  }
}

function newVoter() {
  const bytes = crypto.getRandomValues(new Uint8Array(6))
  const voter = Array.from(bytes, byte => byte.toString(16).padStart(2, "0")).join("")
  return {study: STUDY.id, voter, name: "", saved: "", order: shuffled([...captions.keys()]), answers: {}}
}

function shuffled(items) {
  for (let last = items.length - 1; last > 0; last--) {
    const other = Math.floor(Math.random() * (last + 1))
    ;[items[last], items[other]] = [items[other], items[last]]
  }
  return items
}

function download() {
  const link = document.createElement("a")
  link.href = URL.createObjectURL(new Blob([JSON.stringify(votes, null, 1)], {type: "application/json"}))
  link.download = `votes-${votes.voter}.json`
  link.click()
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000)
}

// answers

const answersOf = id => votes.answers[id] ?? {}
const firstOpen = id => questions.findIndex(({dataset}) => !(dataset.question in answersOf(id)))
const complete = id => firstOpen(id) < 0

function answer(question, choice) {
  if (!ready) return
  const id = votes.order[position]
  const wasComplete = complete(id)
  votes.answers[id] = {...answersOf(id), [questions[question].dataset.question]: choice}
  save()
  const next = wasComplete ? question + 1 : firstOpen(id)
  if (next >= 0 && next < questions.length) ask(next)
  else go(position + 1)
}

function back() {
  if (current > 0) ask(0)
  else if (position > 0) go(position - 1)
}

// display

function showProblem(text) {
  byId("problem").textContent = text
  byId("problem").hidden = false
}

function show(screen) {
  for (const main of all("main")) main.hidden = main.id !== screen
}

function go(to) {
  position = to
  ready = false
  if (position === votes.order.length) {
    show("end")
    document.querySelector("#end h1").focus()
    return
  }
  show("vote")
  const id = votes.order[position]
  byId("where").textContent = `Pair ${position + 1} of ${votes.order.length}`
  byId("progress").max = votes.order.length
  byId("progress").value = votes.order.filter(complete).length
  byId("caption").textContent = captions.get(id)
  ask(Math.max(0, firstOpen(id)))
  showImages(id)
}

function ask(question) {
  current = question
  const id = votes.order[position]
  questions.forEach((fieldset, index) => {
    fieldset.classList.toggle("current", index === question)
    for (const button of fieldset.querySelectorAll("button")) {
      button.setAttribute("aria-pressed", answersOf(id)[fieldset.dataset.question] === button.value)
    }
  })
  byId("back").disabled = position === 0 && current === 0
  byId("next").disabled = !complete(id)
  questions[question].focus({preventScroll: true})
}

async function showImages(id) {
  const frame = document.querySelector(".images")
  frame.setAttribute("aria-busy", "true")
  for (const image of images) image.src = source(id, image.id)
  try {
    await Promise.all(images.map(image => image.decode()))
  } catch {
    if (id === votes.order[position]) showProblem(`The images of pair ${position + 1} cannot be shown: reload the page.`)
    return
  }
  if (id !== votes.order[position]) return
  for (const image of images) image.classList.toggle("small", image.naturalWidth < SMALL)
  frame.style.setProperty("--ratio", images[0].naturalWidth / images[0].naturalHeight)
  frame.setAttribute("aria-busy", "false")
  ready = true
  const following = votes.order[position + 1]
  if (following) for (const image of images) new Image().src = source(following, image.id)
}

const source = (id, side) => `pictures/${id}-${side}.png`

function welcome(saved) {
  votes = saved ?? newVoter()
  for (const element of all(".total")) element.textContent = votes.order.length
  byId("name").value = votes.name
  const done = votes.order.filter(complete).length
  byId("enter").textContent = saved ? `Continue (${done} of ${votes.order.length} done)` : "Start"
  document.querySelector("#start .another").hidden = !saved
  show("start")
}

// input

for (const [question, fieldset] of questions.entries()) {
  for (const [index, [choice, label]] of CHOICES.entries()) {
    const button = document.createElement("button")
    button.type = "button"
    button.value = choice
    button.append(label, Object.assign(document.createElement("kbd"), {textContent: index + 1, ariaHidden: "true"}))
    button.addEventListener("click", () => answer(question, choice))
    fieldset.append(button)
  }
}

byId("begin").addEventListener("submit", event => {
  event.preventDefault()
  votes.name = byId("name").value.trim()
  save()
  const first = votes.order.findIndex(id => !complete(id))
  go(first < 0 ? votes.order.length : first)
})
byId("back").addEventListener("click", back)
byId("next").addEventListener("click", () => go(position + 1))
byId("review").addEventListener("click", () => go(votes.order.length - 1))
for (const button of all(".download")) button.addEventListener("click", download)
for (const button of all(".another")) {
  button.addEventListener("click", () => {
    if (Object.keys(votes.answers).length) download()
    welcome(null)
  })
}

document.addEventListener("keydown", event => {
  const known = event.key in KEYS || event.key === "Backspace"
  if (byId("vote").hidden || !known || event.ctrlKey || event.altKey || event.metaKey) return
  event.preventDefault()
  if (event.repeat) return
  if (event.key === "Backspace") back()
  else answer(current, KEYS[event.key])
})

addEventListener("storage", event => {
  if (event.key === storeName(votes.voter) && event.newValue) welcome(JSON.parse(event.newValue))
})

welcome(stored(storeName(stored(storeName("current")))))
